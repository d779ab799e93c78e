"""The engine in this process, on the real model."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmstream_cli.api import (
    Chunk,
    EngineConfig,
    EngineState,
    EngineStatus,
    FinishReason,
    GenerationRequest,
    SamplingParams,
)
from llmstream_cli.core.llama import Model
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.step_loop import StepLoop
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import (
    ContextLengthError,
    ContextMemoryError,
    EngineClosedError,
    EngineError,
    InvalidValueError,
    ModelError,
    PromptError,
)
from llmstream_cli.machine import Memory
from llmstream_cli.prompts.messages import Message
from tests.gguf_files import ALWAYS_THINKING_TEMPLATE, write_family, write_qwen3

GREEDY = SamplingParams(temperature=0.0, max_tokens=48)
PROMPTS = [
    "Where is Paris?",
    "Write a short poem about the sea.",
    "List three uses of a brick, one on each line.",
    "Was ist die Hauptstadt von Österreich? 🇦🇹",
]


def question(text: str, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), sampling)


async def collect(chunks: AsyncGenerator[Chunk]) -> list[Chunk]:
    async with contextlib.aclosing(chunks):
        return [chunk async for chunk in chunks]


def text(chunks: Iterable[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def token_ids(chunks: Iterable[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


@contextlib.asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncGenerator[InProcessEngine]:
    engine = InProcessEngine(EngineConfig(model_path=str(path), **settings))
    engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()
        assert not engine._thread.is_alive()


@pytest.fixture
async def engine(model_path: Path) -> AsyncGenerator[InProcessEngine]:
    async with running(model_path) as engine:
        yield engine


# ---- the answer is right --------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(model_path: Path) -> Any:
    """llama-cpp-python's own high-level class, with the same batches and kernels."""
    import llama_cpp

    return llama_cpp.Llama(
        str(model_path),
        n_ctx=1024,
        n_batch=64,
        n_ubatch=64,
        n_threads=2,
        n_threads_batch=2,
        flash_attn=True,
        logits_all=False,
        verbose=False,
    )


def encode(model_path: Path, prompt: str) -> list[int]:
    """The prompt as the model's authors write it, by hand."""
    rendered = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        f"<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    return Model(str(model_path)).tokenize(rendered, special=True)


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_greedy_tokens_are_those_of_the_reference_class(
    engine: InProcessEngine, reference: Any, model_path: Path, prompt: str
) -> None:
    expected: list[int] = []
    for token in reference.generate(
        encode(model_path, prompt), temp=0.0, repeat_penalty=1.0, top_k=0, top_p=1.0, min_p=0.0
    ):
        if reference._model.token_eos() == token or len(expected) == GREEDY.max_tokens:
            break
        expected.append(token)
    ours = await collect(engine.generate(question(prompt, replace(GREEDY, repeat_penalty=1.0))))
    assert token_ids(ours) == expected


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_penalized_greedy_tokens_are_those_of_a_plain_loop(
    engine: InProcessEngine, reference: Any, model_path: Path, prompt: str
) -> None:
    """The loop penalizes in numpy, by the formula of the CTRL paper, over prompt and answer."""
    tokens = encode(model_path, prompt)
    num_prompt_tokens = len(tokens)
    reference.reset()
    reference.eval(tokens)
    while len(tokens) - num_prompt_tokens < 48:
        logits = np.array(reference._ctx.get_logits_ith(-1)[: reference.n_vocab()])
        window = list(set(tokens[-64:]))
        recent = logits[window]
        logits[window] = np.where(recent > 0, recent / np.float32(1.1), recent * np.float32(1.1))
        token = int(logits.argmax())
        if token == reference._model.token_eos():
            break
        tokens.append(token)
        reference.eval([token])
    ours = await collect(engine.generate(question(prompt)))
    assert token_ids(ours) == tokens[num_prompt_tokens:]


async def test_paris_is_in_france(engine: InProcessEngine) -> None:
    answer = text(await collect(engine.generate(question("Where is Paris?"))))
    assert answer.startswith("Paris is the capital of France and one of the most iconic cities")


async def test_the_text_is_the_tokens_text(engine: InProcessEngine, model_path: Path) -> None:
    chunks = await collect(engine.generate(question(PROMPTS[3])))
    model = Model(str(model_path))
    pieces = b"".join(map(model.piece, token_ids(chunks)))
    assert text(chunks) == pieces.decode("utf-8", "replace")


async def test_an_answer_is_the_same_again_and_after_another(engine: InProcessEngine) -> None:
    first = await collect(engine.generate(question(PROMPTS[0])))
    await collect(engine.generate(question(PROMPTS[1])))
    assert token_ids(await collect(engine.generate(question(PROMPTS[0])))) == token_ids(first)


async def test_one_seed_one_answer(engine: InProcessEngine) -> None:
    def drawn(seed: int) -> GenerationRequest:
        return question(PROMPTS[1], SamplingParams(temperature=1.5, seed=seed, max_tokens=24))

    first, second, other = [text(await collect(engine.generate(drawn(seed)))) for seed in (7, 7, 8)]
    assert first == second
    assert first != other


async def test_without_a_seed_answers_differ(engine: InProcessEngine) -> None:
    request = question(PROMPTS[1], SamplingParams(temperature=1.5, max_tokens=24))
    answers = {text(await collect(engine.generate(request))) for _ in range(3)}
    assert len(answers) > 1


async def test_the_system_message_counts(engine: InProcessEngine) -> None:
    pirate = GenerationRequest(
        (Message("system", "You are a pirate."), Message("user", PROMPTS[0])), GREEDY
    )
    plain = token_ids(await collect(engine.generate(question(PROMPTS[0]))))
    assert token_ids(await collect(engine.generate(pirate))) != plain


async def test_the_size_of_a_step_does_not_change_the_answer(model_path: Path) -> None:
    """Kernels may round differently for other batch shapes; these prompts show no such case."""
    answers = []
    for size in (16, 64):
        async with running(model_path, max_batch_tokens=size) as engine:
            answers.append(token_ids(await collect(engine.generate(question(PROMPTS[2])))))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("max_seqs", [1, 3])
async def test_an_answer_that_outgrows_the_first_cache_is_that_of_a_large_one(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, max_seqs: int
) -> None:
    answers = []
    for first_ctx_size in (256, 2048):
        monkeypatch.setattr(
            "llmstream_cli.core.llama.growing_context.FIRST_CTX_SIZE", first_ctx_size
        )
        async with running(model_path, max_seqs=max_seqs) as engine:
            for query in PROMPTS:  # what idle slots hold moves, too
                await collect(engine.generate(question(query, replace(GREEDY, max_tokens=4))))
            request = question("Tell a long story.", replace(GREEDY, max_tokens=600))
            answers.append(token_ids(await collect(engine.generate(request))))
            for query in PROMPTS:
                again = await collect(engine.generate(question(query)))
                assert again[-1].usage is not None
                answers[-1] += [*token_ids(again), again[-1].usage.cached_tokens]
    assert len(answers[0]) > 300
    assert answers[0] == answers[1]


async def test_a_raw_prompt_is_continued_as_it_is(
    engine: InProcessEngine, model_path: Path
) -> None:
    ids = encode(model_path, PROMPTS[0])
    by_chat = token_ids(await collect(engine.generate(question(PROMPTS[0]))))
    by_ids = GenerationRequest(prompt=tuple(ids), sampling=GREEDY)
    assert token_ids(await collect(engine.generate(by_ids))) == by_chat
    story = "<|im_start|>Once upon a time"
    story_ids = tuple(Model(str(model_path)).tokenize(story, special=True))
    answers = [
        token_ids(await collect(engine.generate(GenerationRequest(prompt=prompt, sampling=GREEDY))))
        for prompt in (story, story_ids)
    ]
    assert answers[0] == answers[1] != by_chat


# ---- it ends where it should ----------------------------------------------------------------


async def test_a_model_that_has_to_think_begins_with_it_unless_it_is_told_not_to(
    tmp_path: Path,
) -> None:
    path = write_qwen3(tmp_path / "r1.gguf", ALWAYS_THINKING_TEMPLATE)
    request = question("the of", replace(GREEDY, max_tokens=8))
    async with running(path) as engine:
        thinking = await collect(engine.generate(request))
        answering = await collect(engine.generate(replace(request, thinking=False)))
    for chunks, num_reasoning_tokens in ((thinking, 8), (answering, 0)):
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.reasoning_tokens == num_reasoning_tokens
        assert usage.completion_tokens == 8
    assert text(thinking) == ""
    assert "".join(chunk.reasoning for chunk in thinking)
    assert text(answering)
    assert not any(chunk.reasoning for chunk in answering)


def progress_of(chunks: Iterable[Chunk]) -> list[tuple[int, int]]:
    """The computed tokens and all tokens of a prompt, as they were told."""
    told = [chunk.progress for chunk in chunks if chunk.progress is not None]
    return [(progress.num_computed_tokens, progress.num_prompt_tokens) for progress in told]


async def test_a_long_prompt_tells_how_far_it_is(engine: InProcessEngine) -> None:
    sampling = replace(GREEDY, max_tokens=2)
    plain = question("word " * 200, sampling)
    silent = await collect(engine.generate(plain))
    request = question("words " * 200, sampling)
    chunks = await collect(engine.generate(replace(request, report_progress=True)))
    told = progress_of(chunks)
    assert len(told) >= 3
    assert told == sorted(told)
    usage = chunks[-1].usage
    assert usage is not None
    assert {total for _, total in told} == {usage.prompt_tokens}
    assert told[-1][0] < usage.prompt_tokens
    assert progress_of(silent) == []
    first_token = next(index for index, chunk in enumerate(chunks) if chunk.token_ids)
    assert all(chunk.progress is None for chunk in chunks[first_token:])


async def test_the_last_chunk_and_only_it_tells_reason_and_usage(engine: InProcessEngine) -> None:
    chunks = await collect(engine.generate(question(PROMPTS[0])))
    assert all(c.finish_reason is None and c.usage is None for c in chunks[:-1])
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens == 34
    assert usage.completion_tokens == 48 == len(token_ids(chunks))
    assert usage.prompt_seconds > 0
    assert usage.tokens_per_second > 0


async def test_the_model_ends_its_turn(engine: InProcessEngine) -> None:
    request = question("Say only: yes", replace(GREEDY, max_tokens=400))
    chunks = await collect(engine.generate(request))
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert "<|im_end|>" not in text(chunks)


async def test_a_stop_string_ends_the_answer_before_it(engine: InProcessEngine) -> None:
    whole = text(await collect(engine.generate(question(PROMPTS[0]))))
    stop = "most iconic"
    request = question(PROMPTS[0], replace(GREEDY, stop=(stop,)))
    chunks = await collect(engine.generate(request))
    assert text(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_a_full_context_ends_the_answer(model_path: Path) -> None:
    async with running(model_path, ctx_size=50) as engine:
        chunks = await collect(engine.generate(question(PROMPTS[0], SamplingParams(temperature=0))))
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens + usage.completion_tokens == 50


# ---- bad input harms nobody -----------------------------------------------------------------


async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    model_path: Path,
) -> None:
    async with running(model_path, ctx_size=64) as engine:
        with pytest.raises(
            ContextLengthError, match=r"maximum context length is 64 tokens .* the prompt has \d+:"
        ):
            await collect(engine.generate(question("word " * 100)))
        assert text(
            await collect(engine.generate(question(PROMPTS[0], replace(GREEDY, max_tokens=4))))
        )


async def test_long_prompts_cannot_crash_the_process(tmp_path: Path) -> None:
    path = write_family(
        tmp_path / "m.gguf", "gpt2", bos="<s>", eos="</s>", add_bos=False, pre="tekken"
    )
    async with running(path) as engine:
        deep = GenerationRequest(prompt="a" * 200_000)  # overflows the tokenizer's stack
        words = "the of " * 2000
        for _ in range(2):
            with pytest.raises(PromptError, match="the messages made no prompt within"):
                await engine.count_tokens(deep)
            count = await engine.count_tokens(GenerationRequest(prompt=words))
            assert count == len(Model(str(path)).tokenize(words, special=True))
        with pytest.raises(ContextLengthError):
            await collect(engine.generate(GenerationRequest(prompt=words)))


@pytest.mark.parametrize("schema", [None, '{"type": "array", "items": {"type": "integer"}}'])
async def test_a_long_prompt_is_answered_as_if_it_were_short(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, schema: str | None
) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=8, json_schema=schema)
    asked = question("Name three numbers.", sampling)
    async with running(model_path, ctx_size=256) as engine:
        short = await collect(engine.generate(asked))
        monkeypatch.setattr("llmstream_cli.engines.in_process._LONG_CHARS", 0)
        assert text(await collect(engine.generate(asked))) == text(short)


async def test_a_context_larger_than_the_models_is_refused(model_path: Path) -> None:
    async with running(model_path, ctx_size=8193) as engine:
        with pytest.raises(InvalidValueError, match=r"8193.*8192"):
            await engine.ready()


async def test_a_failed_load_reaches_every_request_present_and_future(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    async with running(path) as engine:
        waiting = [asyncio.ensure_future(engine.ready()) for _ in range(2)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, ModelError) for outcome in outcomes)
        assert outcomes[0] is not outcomes[1]
        with pytest.raises(ModelError, match="cannot load"):
            await collect(engine.generate(question(PROMPTS[0])))
        assert engine.status == EngineStatus(EngineState.FAILED, str(outcomes[0]))


async def test_a_model_without_a_chat_template_does_not_chat(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "chat_template", None)
    with pytest.raises(PromptError, match="has no chat template"):
        await collect(engine.generate(question(PROMPTS[0])))


@pytest.mark.parametrize("error", [EngineError("not enough memory"), ZeroDivisionError("a bug")])
async def test_a_request_that_cannot_be_set_up_harms_no_other(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await engine.ready()
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise error

        patch.setattr(Runner, "add", refuse)
        with pytest.raises(EngineError, match=str(error)):
            await collect(engine.generate(question(PROMPTS[0])))
    assert text(await collect(engine.generate(question(PROMPTS[0]))))
    assert engine.metrics.running == engine.metrics.waiting == 0


async def test_an_answer_that_memory_cannot_hold_ends_alone(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of a single slot grows with its answers, as far as the machine lets it."""
    await engine.ready()

    with monkeypatch.context() as patch:
        patch.setattr("llmstream_cli.core.llama.growing_context.memory", lambda: Memory(10**9, 0))
        long = collect(engine.generate(question("word " * 600)))
        short = collect(engine.generate(question(PROMPTS[0])))
        refused, answer = await asyncio.gather(long, short, return_exceptions=True)
    assert isinstance(refused, ContextMemoryError)
    assert "no memory for a context of" in str(refused)
    assert isinstance(answer, list)
    assert token_ids(await collect(engine.generate(question(PROMPTS[0])))) == token_ids(answer)
    assert text(await collect(engine.generate(question("word " * 600))))


async def test_a_failed_step_reaches_every_request_present_and_future(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("llama.cpp could not compute a step")

    monkeypatch.setattr(Runner, "run", fail)
    requests = [collect(engine.generate(question(prompt))) for prompt in PROMPTS]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineError] * len(PROMPTS)
    with pytest.raises(EngineError, match="could not compute"):
        await engine.ready()


async def test_an_error_with_a_constructor_of_its_own_reaches_everybody(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ContextLengthError(9, 8)

    monkeypatch.setattr(Runner, "run", fail)
    requests = [collect(engine.generate(question(prompt))) for prompt in PROMPTS[:2]]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ContextLengthError] * 2
    assert {str(outcome) for outcome in outcomes} == {str(ContextLengthError(9, 8))}


async def test_a_bug_on_the_engines_thread_is_heard_of(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Runner, "run", fail)
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        await collect(engine.generate(question(PROMPTS[0])))


# ---- cancellation and closing ---------------------------------------------------------------


class Steps:
    """Counts the tokens of each step, and holds the engine's thread before one when asked to."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.hold_at: int | None = None

    def count(self, size: int) -> None:
        self.sizes.append(size)
        if len(self.sizes) == self.hold_at:
            self.held.set()
            assert self.go_on.wait(300)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps()
    run = Runner.run

    def counting(self: Runner, step: Any) -> Any:
        steps.count(sum(part.end - part.start for part in step.parts))
        return run(self, step)

    monkeypatch.setattr(Runner, "run", counting)
    return steps


async def test_closing_the_stream_cancels_within_one_step(
    engine: InProcessEngine, steps: Steps
) -> None:
    steps.hold_at = 5
    endless = question(PROMPTS[1], replace(GREEDY, max_tokens=5000))
    async with contextlib.aclosing(engine.generate(endless)) as chunks:
        await anext(chunks)
        await asyncio.to_thread(steps.held.wait)
    # The fifth step is running; whatever follows finds the engine free.
    after = asyncio.ensure_future(
        collect(engine.generate(question(PROMPTS[0], replace(GREEDY, max_tokens=1))))
    )
    while engine._steps._inbox.qsize() < 2:  # noqa: ASYNC110  (the cancellation, and the new request)
        await asyncio.sleep(0.001)
    steps.go_on.set()
    await after
    assert len(steps.sizes) == 6


async def test_a_cancelled_prefill_computes_no_further_part(
    engine: InProcessEngine, steps: Steps
) -> None:
    steps.hold_at = 2
    long = asyncio.ensure_future(collect(engine.generate(question("word " * 3000))))
    await asyncio.to_thread(steps.held.wait)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    steps.go_on.set()
    await collect(engine.generate(question(PROMPTS[0], replace(GREEDY, max_tokens=1))))
    assert len(steps.sizes) == 3


async def test_a_request_cancelled_in_the_queue_is_never_computed(
    engine: InProcessEngine, steps: Steps
) -> None:
    steps.hold_at = 3
    running = asyncio.ensure_future(collect(engine.generate(question(PROMPTS[0]))))
    await asyncio.to_thread(steps.held.wait)
    queued = asyncio.ensure_future(collect(engine.generate(question("word " * 1000))))
    while engine._steps._inbox.empty():  # noqa: ASYNC110  (it is being encoded on another thread)
        await asyncio.sleep(0.001)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    steps.go_on.set()
    await running
    assert max(steps.sizes) == steps.sizes[0] == 34
    assert len(steps.sizes) == 48


async def test_concurrent_requests_each_get_their_own_answer(engine: InProcessEngine) -> None:
    alone = [token_ids(await collect(engine.generate(question(prompt)))) for prompt in PROMPTS]
    together = await asyncio.gather(
        *(collect(engine.generate(question(prompt))) for prompt in PROMPTS)
    )
    assert [token_ids(chunks) for chunks in together] == alone


async def test_closing_ends_a_running_answer_and_a_waiting_one(model_path: Path) -> None:
    engine = InProcessEngine(EngineConfig(model_path=str(model_path)))
    engine.start()
    chunks = engine.generate(question(PROMPTS[1], replace(GREEDY, max_tokens=5000)))
    await anext(chunks)
    waiting = asyncio.ensure_future(collect(engine.generate(question(PROMPTS[0]))))
    await asyncio.sleep(0)
    await engine.aclose()
    assert not engine._thread.is_alive()
    with pytest.raises(EngineClosedError):
        await collect(chunks)
    with pytest.raises(EngineClosedError):
        await waiting
    with pytest.raises(EngineClosedError):
        await collect(engine.generate(question(PROMPTS[0])))


async def test_closing_interrupts_a_step(model_path: Path) -> None:
    """One step of this size takes seconds; the abort flag ends it at the next operation."""
    engine = InProcessEngine(EngineConfig(model_path=str(model_path), max_batch_tokens=4096))
    engine.start()
    decoding = threading.Event()
    await engine.ready()
    assert engine._steps._runner is not None
    decode = engine._steps._runner._contexts.current.decode

    finished: list[bool] = []

    def watched(batch: Any) -> None:
        decoding.set()
        decode(batch)
        finished.append(True)

    contexts = engine._steps._runner._contexts
    assert contexts.make_room(8192, wait=True)
    decode = contexts.current.decode
    contexts.current.decode = watched  # type: ignore[method-assign]
    request = asyncio.ensure_future(collect(engine.generate(question("word " * 4000))))
    await asyncio.to_thread(decoding.wait)
    await engine.aclose()
    with pytest.raises(EngineClosedError):
        await request
    assert not finished


async def test_status_from_loading_to_closed(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    load = StepLoop._load

    def slow(self: StepLoop) -> Any:
        go_on.wait()
        return load(self)

    monkeypatch.setattr(StepLoop, "_load", slow)
    async with running(model_path) as engine:
        assert engine.status == EngineStatus(EngineState.LOADING, "the model is being loaded")
        go_on.set()
        await engine.ready()
        assert engine.status == EngineStatus(EngineState.READY)
        await collect(engine.generate(question(PROMPTS[0])))
        assert engine.metrics.generated_tokens == 48
        assert (engine.metrics.restarts, engine.metrics.rss_bytes) == (0, 0)
    assert engine.status == EngineStatus(EngineState.CLOSED, "the engine has been closed")


async def test_closing_twice_is_closing_once(model_path: Path) -> None:
    engine = InProcessEngine(EngineConfig(model_path=str(model_path)))
    engine.start()
    await engine.ready()
    assert engine._steps.loaded is not None
    model = weakref.ref(engine._steps.loaded.model)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(EngineClosedError):
        await engine.ready()
    with pytest.raises(EngineClosedError):
        await collect(engine.generate(question(PROMPTS[0])))
    gc.collect()
    assert model() is None  # its memory is released


async def test_closing_does_not_wait_for_a_load(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    load = StepLoop._load

    def slow(self: StepLoop) -> Any:
        go_on.wait()
        return load(self)

    monkeypatch.setattr(StepLoop, "_load", slow)
    engine = InProcessEngine(EngineConfig(model_path=str(model_path)))
    engine.start()
    waiting = asyncio.ensure_future(engine.ready())
    await asyncio.sleep(0)
    await engine.aclose()
    assert engine._thread.is_alive()
    go_on.set()
    await waiting  # it was asked for before the engine was closed
    await asyncio.to_thread(engine._thread.join)


async def test_a_loop_that_has_gone_does_not_stop_the_engine(engine: InProcessEngine) -> None:
    await engine.ready()
    loop = asyncio.new_event_loop()
    loop.close()
    engine._loop = loop
    engine._steps.tell_ready(-1)
    assert text(await collect(engine.generate(question(PROMPTS[0]))))
