"""Streams that share the engine: prefixes, grammars, neighbours that fail or leave."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    Usage,
)
from llmstream_cli.core.grammar.constraint import Constraint
from llmstream_cli.core.llama import Context
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import EngineError, InvalidValueError, StepRefusedError
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


async def test_one_seed_gives_one_answer_whoever_else_is_there(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    put = engine._put

    def counting(batch: Any) -> None:
        sizes.append(len(batch))
        put(batch)

    monkeypatch.setattr(engine, "_put", counting)
    drawn = SamplingParams(temperature=1.2, seed=11, max_tokens=32)
    requests = [question(f"Tell me about {subject}.", drawn) for subject in SUBJECTS]
    expected = [text(await collect(engine.generate(request))) for request in requests[:2]]
    together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    assert [text(chunks) for chunks in together[:2]] == expected
    assert max(sizes) == len(SUBJECTS)  # all chunks of a step cross in one message


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


# ---- grammars, biases and log probabilities --------------------------------------------------

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "population": {"type": "integer", "minimum": 0, "maximum": 10_000_000},
        "rivers": {"type": "array", "items": {"enum": ["Seine", "Danube"]}, "maxItems": 2},
    },
    "required": ["city", "population", "rivers"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 0.2, 2.0])
async def test_an_answer_that_stops_fulfils_its_schema(
    engine: InProcessEngine, temperature: float
) -> None:
    sampling = replace(
        GREEDY, temperature=temperature, json_schema=json.dumps(CITY), max_tokens=200, seed=3
    )
    cities = ["Paris", "Vienna", "Budapest", "Lyon"]
    answers = await asyncio.gather(
        *(collect(engine.generate(question(f"Describe {city}.", sampling))) for city in cities)
    )
    for chunks in answers:
        assert chunks[-1].finish_reason is FinishReason.STOP
        jsonschema.validate(json.loads(text(chunks)), CITY)


async def test_a_grammar_binds_one_answer_and_leaves_its_neighbours_alone(
    engine: InProcessEngine,
) -> None:
    free = question("Tell me about rivers.")
    expected = token_ids(await collect(engine.generate(free)))
    bound = question("Is Paris in France?", replace(GREEDY, grammar='root ::= "yes" | "no" | "ö"'))
    answers = await asyncio.gather(*(collect(engine.generate(r)) for r in (bound, free, bound)))
    assert text(answers[0]) == text(answers[2]) in {"yes", "no", "ö"}
    assert token_ids(answers[1]) == expected


async def test_a_broken_grammar_is_refused_and_harms_nobody(engine: InProcessEngine) -> None:
    running_answer = asyncio.create_task(collect(engine.generate(question("Tell me a story."))))
    for broken in ("root ::= (", "", "root ::= root", 'other ::= "x"', "(" * 30_000):
        with pytest.raises(InvalidValueError) as caught:
            await collect(engine.generate(question("Hi", replace(GREEDY, grammar=broken))))
        assert len(str(caught.value).splitlines()) == 1
    assert len(await running_answer) > 1


@pytest.mark.parametrize("kind", [EngineError, ZeroDivisionError])  # the second would be a bug
async def test_a_grammar_that_fails_on_the_way_ends_its_request_alone(
    engine: InProcessEngine, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(self: Constraint, token: int) -> None:
        raise kind(f"cannot go on after {token}")

    monkeypatch.setattr(Constraint, "accept", fail)
    free = asyncio.create_task(collect(engine.generate(question("Tell me about rivers."))))
    with pytest.raises(EngineError, match="cannot go on after"):
        await collect(engine.generate(question("Hi", replace(GREEDY, grammar='root ::= "yes"'))))
    assert (await free)[-1].finish_reason is not None
    monkeypatch.undo()
    again = await collect(engine.generate(question("Hi", replace(GREEDY, grammar='root ::= "a"'))))
    assert text(again) == "a"
    assert engine.metrics.running == engine.metrics.waiting == 0


async def test_ignoring_the_end_fills_all_tokens(engine: InProcessEngine) -> None:
    sampling = replace(GREEDY, max_tokens=100)
    short = question("Answer with one word: Paris?", sampling)
    assert (await collect(engine.generate(short)))[-1].finish_reason is FinishReason.STOP
    long = replace(short, sampling=replace(sampling, ignore_eos=True))
    last = (await collect(engine.generate(long)))[-1]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.completion_tokens == 100


async def test_each_token_comes_with_its_log_probability(engine: InProcessEngine) -> None:
    plain = question("Where is Paris?", SamplingParams(temperature=0.0, repeat_penalty=1.0))
    request = replace(plain, sampling=replace(plain.sampling, max_tokens=20, logprobs=5))
    chunks = await collect(engine.generate(request))
    logprobs: list[DrawnLogprob] = [entry for chunk in chunks for entry in chunk.logprobs]
    assert [entry.drawn.token_id for entry in logprobs] == token_ids(chunks)
    assert b"".join(entry.drawn.piece for entry in logprobs).decode() == text(chunks)
    for entry in logprobs:
        assert entry.top[0] == entry.drawn  # greedy, with no penalty: the likeliest
        likelihoods = [alternative.logprob for alternative in entry.top]
        assert likelihoods == sorted(likelihoods, reverse=True)
        assert len({alternative.token_id for alternative in entry.top}) == 5
        assert sum(map(math.exp, likelihoods)) <= 1.0 + 1e-6
    without = await collect(
        engine.generate(replace(request, sampling=replace(request.sampling, logprobs=None)))
    )
    assert token_ids(without) == token_ids(chunks)
    assert not any(chunk.logprobs for chunk in without)
