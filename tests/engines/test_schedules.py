"""Random schedules on the real model: every answer is that of a request alone.

An answer may leave that of its request alone only where docs/architecture.md says that rounding
differs, which is checked by the logits: the two tokens were as good as equally likely.
"""

import asyncio
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as C  # noqa: N812

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest, SamplingParams
from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from tests.engines.test_in_process import collect, encode, question, running, text, token_ids

pytestmark = pytest.mark.slow

NUM_SLOTS = 4
# Threads that wait for one another are slow where others use the processors, too.
SETTINGS = {"ctx_size": 512, "threads": 1}
PLAIN_GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, max_tokens=8)
MAX_ROUNDING = 0.6  # in a logit, as docs/architecture.md states

STARTS = ["Tell me about a", "What is the smell of a"]
THINGS = ["river", "stone", "lamp", "cloud", "engine"]
QUESTIONS = [f"{start} {thing}." for start in STARTS for thing in THINGS]


class Reference:
    """Each answer of a request alone in an engine of its own kind: one slot, nothing reused."""

    def __init__(self, model_path: Path) -> None:
        self._path = model_path
        self._model = Model(str(model_path))
        self._context = Context(
            self._model, ctx_size=1024, max_seqs=1, max_batch_tokens=64, threads=1
        )

    def logits(self, tokens: list[int]) -> Any:
        self._context.truncate_sequence(0, 0)
        for start in range(0, len(tokens), 60):
            batch = Batch(64)
            for position in range(start, min(start + 60, len(tokens))):
                row = batch.add(tokens[position], position, 0, output=position == len(tokens) - 1)
            self._context.decode(batch)
        return np.frombuffer(self._context.logits(row), dtype=np.float32)

    def check(self, prompt: list[int], got: list[int], alone: list[int]) -> None:
        """Up to where the answers part, they are the same; there, rounding decided."""
        same = 0
        while same < min(len(got), len(alone)) and got[same] == alone[same]:
            same += 1
        if same < min(len(got), len(alone)):
            ours, theirs = self.logits([*prompt, *alone[:same]])[[got[same], alone[same]]]
            assert abs(ours - theirs) <= 2 * MAX_ROUNDING
        else:
            assert len(got) == len(alone)


@pytest.fixture(scope="module")
def reference(model_path: Path) -> Reference:
    return Reference(model_path)


@dataclass
class Books:
    """What an engine's parts hold, found when they are made."""

    cache: PrefixCache | None = None
    runner: Runner | None = None

    def check(self) -> None:
        """All slots are free, and llama.cpp holds what the cache believes."""
        assert self.cache is not None
        assert self.runner is not None
        assert self.cache.num_idle == self.cache.num_slots
        assert not self.cache._awaited
        assert not self.runner._samplers
        memory = C.llama_get_memory(self.runner.contexts.current.pointer)
        for slot, held in enumerate(self.cache._holds):
            num_tokens = 0 if held is None else held.num_computed_tokens
            assert C.llama_memory_seq_pos_max(memory, slot) + 1 == num_tokens


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    books = Books()

    def noting(kind: type, name: str) -> None:
        make = kind.__init__  # type: ignore[misc]

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            setattr(books, name, self)

        monkeypatch.setattr(kind, "__init__", init)

    noting(PrefixCache, "cache")
    noting(Runner, "runner")
    return books


async def consume(engine: Any, request: GenerationRequest, kind: int, rng: random.Random) -> Any:
    """Read an answer in one of the ways that clients have; return its chunks, None if given up."""
    await asyncio.sleep(rng.random() * 2)
    match kind:
        case 0:  # gives up after a while: in the queue, in prefill, in decode, or too late
            answer = asyncio.ensure_future(collect(engine.generate(request)))
            await asyncio.sleep(rng.random())
            if answer.cancel():
                await asyncio.wait([answer])
                return None
            return answer.result()
        case 1:  # stops reading after some chunks
            stream = engine.generate(request)
            for _ in range(rng.randrange(1, 6)):
                await anext(stream)
            await stream.aclose()
            return None
        case 2:  # reads slowly
            chunks = []
            async for chunk in engine.generate(request):
                chunks.append(chunk)
                await asyncio.sleep(0.05)
            return chunks
        case _:
            return await collect(engine.generate(request))


def check_end(chunks: list[Chunk]) -> None:
    assert [chunk.finish_reason is not None for chunk in chunks[:-1]] == [False] * (len(chunks) - 1)
    assert chunks[-1].finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(token_ids(chunks))


async def test_every_answer_of_a_random_schedule_is_that_of_its_request_alone(
    model_path: Path, reference: Reference, books: Books
) -> None:
    rng = random.Random(1)
    asked = [question(rng.choice(QUESTIONS), PLAIN_GREEDY) for _ in range(60)]
    async with running(model_path, **SETTINGS) as alone:
        answers = {request: await collect(alone.generate(request)) for request in set(asked)}
    async with running(model_path, max_seqs=NUM_SLOTS, **SETTINGS) as engine:
        await engine.ready()
        tasks = [consume(engine, request, rng.randrange(6), rng) for request in asked]
        outcomes = await asyncio.gather(*tasks)
        # A request that is posted now is answered after all cancellations.
        await collect(engine.generate(asked[0]))
        assert (engine.metrics.running, engine.metrics.waiting) == (0, 0)
        books.check()
    survivors = [pair for pair in zip(asked, outcomes, strict=True) if pair[1] is not None]
    assert len(survivors) > 20
    for request, chunks in survivors:
        check_end(chunks)
        expected = answers[request]
        reference.check(
            encode(model_path, request.messages[0].content), token_ids(chunks), token_ids(expected)
        )
        if token_ids(chunks) == token_ids(expected):
            assert text(chunks) == text(expected)


async def test_a_reused_prefix_does_not_change_an_answer(
    model_path: Path, reference: Reference, books: Books
) -> None:
    rules = " ".join(f"Rule {number}: shelf {number * 7} stays shut." for number in range(12))
    requests = [question(f"{rules} Tell me about a {thing}.", PLAIN_GREEDY) for thing in THINGS[:3]]
    expected = []
    for request in requests:
        async with running(model_path, **SETTINGS) as fresh:
            expected.append(await collect(fresh.generate(request)))
    async with running(model_path, max_seqs=NUM_SLOTS, **SETTINGS) as engine:
        together = await asyncio.gather(*(collect(engine.generate(r)) for r in requests))
        again = [await collect(engine.generate(request)) for request in reversed(requests)]
        books.check()
    cached = [chunks[-1].usage.cached_tokens for chunks in [*together, *again] if chunks[-1].usage]
    assert sum(number > 80 for number in cached) == 2 * len(requests) - 1
    for request, alone, *reused in zip(requests, expected, together, again[::-1], strict=True):
        prompt = encode(model_path, request.messages[0].content)
        for chunks in reused:
            reference.check(prompt, token_ids(chunks), token_ids(alone))


async def test_a_stop_string_ends_the_answer_wherever_it_lies(model_path: Path) -> None:
    """Within a token, over a border, over several; together with others and alone."""
    sampling = replace(PLAIN_GREEDY, max_tokens=24)
    async with running(model_path, max_seqs=NUM_SLOTS, **SETTINGS) as engine:
        request = question(QUESTIONS[0], sampling)
        whole = text(await collect(engine.generate(request)))
        places = [(start, length) for start in range(5, 40, 12) for length in (1, 2, 9)]
        stops = [whole[start : start + length] for start, length in places]
        answers = await asyncio.gather(
            *(
                collect(engine.generate(question(QUESTIONS[0], replace(sampling, stop=(stop,)))))
                for stop in stops
            )
        )
    for stop, chunks in zip(stops, answers, strict=True):
        assert text(chunks) == whole[: whole.index(stop)]
        assert chunks[-1].finish_reason is FinishReason.STOP
