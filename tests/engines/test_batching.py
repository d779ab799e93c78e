"""Many streams at once on the real model: exact, shared and separate."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmstream_cli.api import Chunk, GenerationRequest, SamplingParams, Usage
from llmstream_cli.core.llama import Context
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import StepRefusedError
from llmstream_cli.prompts.messages import Message
from tests.engines.test_in_process import GREEDY, collect, question, running, text, token_ids
from tests.gguf_files import write_gemma3, write_lfm2, write_llama, write_mamba

pytestmark = pytest.mark.slow

RULES = "You are a careful librarian. " + " ".join(
    f"Rule {number}: never lend the book on shelf {number * 7}." for number in range(40)
)
SUBJECTS = ["rivers", "stones", "lamps", "clouds", "engines", "paper", "markets", "winter"]


def shared(subject: str, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    return GenerationRequest(
        (Message("system", RULES), Message("user", f"Tell me about {subject}.")), sampling
    )


def usage_of(chunks: list[object]) -> Usage:
    usage = chunks[-1].usage  # type: ignore[attr-defined]
    assert isinstance(usage, Usage)
    return usage


@pytest.fixture
async def engine(model_path: Path) -> AsyncGenerator[InProcessEngine]:
    async with running(model_path, max_seqs=8, ctx_size=2048) as engine:
        yield engine


async def test_one_seed_gives_one_answer_whoever_else_is_there(engine: InProcessEngine) -> None:
    drawn = SamplingParams(temperature=1.2, seed=11, max_tokens=32)
    requests = [question(f"Tell me about {subject}.", drawn) for subject in SUBJECTS]
    expected = [text(await collect(engine.generate(request))) for request in requests[:2]]
    together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    assert [text(chunks) for chunks in together[:2]] == expected


async def test_a_shared_prefix_is_computed_once(engine: InProcessEngine) -> None:
    """That its keys and values are the very same is tested in test_llama.py."""
    requests = [shared(subject) for subject in SUBJECTS[:4]]
    together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    usages = [usage_of([*chunks]) for chunks in together]
    assert sorted(usage.cached_tokens > 500 for usage in usages) == [False, True, True, True]


async def test_a_conversation_computes_only_what_is_new(engine: InProcessEngine) -> None:
    turn = Message("user", "Where is Paris?")
    first = await collect(engine.generate(GenerationRequest((turn,), GREEDY)))
    cached = usage_of([*first])
    again = (turn, Message("assistant", text(first)), Message("user", "And Rome?"))
    second = usage_of([*await collect(engine.generate(GenerationRequest(again, GREEDY)))])
    assert second.cached_tokens >= cached.prompt_tokens + cached.completion_tokens - 2


async def test_a_cancelled_leader_leaves_nobody_waiting(engine: InProcessEngine) -> None:
    await engine.ready()
    tasks = [asyncio.ensure_future(collect(engine.generate(shared(s)))) for s in SUBJECTS[:4]]
    while not any(engine._queues):  # noqa: ASYNC110  (the engine has its own thread)
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.3)  # somewhere in the common prefix
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(outcome, list) for outcome in outcomes[1:])


async def test_a_refused_step_harms_no_later_request(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.ready()

    def refuse(*_: object) -> None:
        monkeypatch.undo()
        raise StepRefusedError("llama.cpp refused a step: an invalid batch")

    monkeypatch.setattr(Context, "decode", refuse)
    with pytest.raises(StepRefusedError, match="an invalid batch"):
        await collect(engine.generate(question("Where is Paris?")))
    answer = text(await collect(engine.generate(question("Where is Paris?"))))
    assert answer.startswith("Paris is the capital of France")
    assert engine.metrics.running == 0
    assert engine.metrics.generated_tokens == GREEDY.max_tokens


@pytest.mark.parametrize("write", [write_llama, write_gemma3, write_mamba, write_lfm2])
async def test_every_kind_of_memory_gives_the_answer_of_a_fresh_engine(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    """Full attention, sliding window, recurrent, hybrid: reused where that is possible."""
    path = write(tmp_path / "model.gguf")
    sampling = replace(GREEDY, max_tokens=12)
    first = [Message("user", f"{subject} and more of it " * 3) for subject in SUBJECTS[:5]]
    requests = [GenerationRequest((message,), sampling) for message in first]
    settings = {"threads": 1, "ctx_size": 240}
    expected = []
    for request in requests:
        async with running(path, **settings) as fresh:
            expected.append(await collect(fresh.generate(request)))
    async with running(path, max_seqs=3, **settings) as engine:
        together = await asyncio.gather(*(collect(engine.generate(r)) for r in requests))
        assert [token_ids(chunks) for chunks in together] == list(map(token_ids, expected))
        again = await asyncio.gather(*(collect(engine.generate(r)) for r in reversed(requests)))
        assert [token_ids(chunks) for chunks in again] == list(map(token_ids, expected[::-1]))


async def test_a_stream_goes_on_while_the_context_grows_for_another(model_path: Path) -> None:
    """What it says is the same, however the other made it move."""
    story = question("Tell a long story.", replace(GREEDY, max_tokens=120))
    async with running(model_path, max_seqs=3) as engine:
        alone = token_ids(await collect(engine.generate(story)))
        runner = engine._steps._runner
        assert runner is not None
        assert runner.ctx_size == 512
        answer: list[int] = []
        long: asyncio.Task[list[Chunk]] | None = None
        async for chunk in engine.generate(story):
            answer += chunk.token_ids
            if long is None and len(answer) > 20:
                request = question("word " * 700, replace(GREEDY, max_tokens=3))
                long = asyncio.create_task(collect(engine.generate(request)))
        assert long is not None
        assert (await long)[-1].finish_reason is not None
        assert runner.ctx_size == 1024
    assert answer == alone
