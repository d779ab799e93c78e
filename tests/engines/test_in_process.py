"""The engine in this process, on the real model."""

import asyncio
import contextlib
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
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import (
    ContextLengthError,
    ContextMemoryError,
    EngineError,
    InvalidValueError,
    ModelError,
    PromptError,
)
from llmstream_cli.machine import Memory
from llmstream_cli.prompts.messages import Message
from tests.gguf_files import ALWAYS_THINKING_TEMPLATE, write_family, write_qwen3

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize("max_seqs", [1, 3])
async def test_an_answer_that_outgrows_the_first_cache_is_that_of_a_large_one(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, max_seqs: int
) -> None:
    answers = []
    for first_ctx_size in (256, 2048):
        monkeypatch.setattr("llmstream_cli.core.llama.context.FIRST_CTX_SIZE", first_ctx_size)
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
        patch.setattr("llmstream_cli.core.llama.context.memory", lambda: Memory(10**9, 0))
        long = collect(engine.generate(question("word " * 600)))
        short = collect(engine.generate(question(PROMPTS[0])))
        refused, answer = await asyncio.gather(long, short, return_exceptions=True)
    assert isinstance(refused, ContextMemoryError)
    assert "no memory for a context of" in str(refused)
    assert isinstance(answer, list)
    assert token_ids(await collect(engine.generate(question(PROMPTS[0])))) == token_ids(answer)
    assert text(await collect(engine.generate(question("word " * 600))))


@pytest.mark.parametrize(
    "error", [EngineError("not computed"), ContextLengthError(9, 8), ZeroDivisionError("a bug")]
)
async def test_a_failed_step_reaches_every_request_present_and_future(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Runner, "run", fail)
    requests = [collect(engine.generate(question(prompt))) for prompt in PROMPTS]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert len({id(outcome) for outcome in outcomes}) == len(PROMPTS)
    expected = EngineError if isinstance(error, ZeroDivisionError) else type(error)
    assert all(type(outcome) is expected for outcome in outcomes)
    assert all(str(error) in str(outcome) for outcome in outcomes)
    with pytest.raises(expected):
        await engine.ready()
