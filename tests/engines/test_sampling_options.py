"""Grammars, biases and log probabilities through the whole engine, on the real model."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmstream_cli.api import DrawnLogprob, FinishReason, SamplingParams
from llmstream_cli.core.grammar.constraint import Constraint
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.engines.test_in_process import GREEDY, collect, question, running, text, token_ids

pytestmark = pytest.mark.slow

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


@pytest.fixture
async def engine(model_path: Path) -> AsyncGenerator[InProcessEngine]:
    async with running(model_path, max_seqs=4, ctx_size=512) as engine:
        yield engine


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
