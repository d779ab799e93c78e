"""Vectors from engines: in this process, in one of their own, in a pool, and of another server."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmstream_cli.api import (
    EmbeddingRequest,
    Embeddings,
    Engine,
    EngineConfig,
    GenerationRequest,
    SamplingParams,
    TokenizeRequest,
)
from llmstream_cli.engines import openai_embeddings
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.engines.pool import EnginePool
from llmstream_cli.engines.pooled_engine import PooledEngine
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.errors import InvalidValueError, ModelKindError, PromptError, UpstreamError
from tests.gguf_files import RANK, write_bert, write_llama, write_qwen3

MAKE: dict[str, Callable[[EngineConfig], Engine]] = {
    "in process": InProcessEngine,
    "supervised": SupervisedEngine,
    "pooled": lambda config: PooledEngine(EnginePool(), "m", lambda: SupervisedEngine(config)),
}
TEXTS = ("The people would have been there", "and", "which of them ", "")


@contextlib.asynccontextmanager
async def started(kind: str, path: Path) -> AsyncIterator[Engine]:
    engine = MAKE[kind](EngineConfig(model_path=str(path)))
    engine.start()
    try:
        await engine.ready()
        yield engine
    finally:
        await engine.aclose()


def array(found: Embeddings) -> Any:
    return np.array([np.frombuffer(one, "<f4") for one in found.vectors])


@pytest.mark.parametrize("write", [write_bert, write_llama])
async def test_all_engines_make_the_same_vectors(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / "m.gguf")
    found = []
    for kind in MAKE:
        async with started(kind, path) as engine:
            found.append(await engine.embed(EmbeddingRequest(TEXTS)))
    assert found[0].vectors[0] != found[0].vectors[1]
    assert len({one.num_tokens for one in found}) == 1
    for other in found[1:]:
        assert np.abs(array(found[0]) - array(other)).max() < 1e-5


@pytest.mark.parametrize("kind", MAKE)
async def test_more_texts_than_a_step_takes_come_in_their_order(tmp_path: Path, kind: str) -> None:
    async with started(kind, write_bert(tmp_path / "m.gguf")) as engine:
        inputs = tuple((5 + number % 90, 7) for number in range(700))
        found = array(await engine.embed(EmbeddingRequest(inputs)))
        (alone,) = array(await engine.embed(EmbeddingRequest(inputs[613:614])))
        assert len(found) == 700
        assert np.abs(found[613] - alone).max() < 1e-4
        assert np.abs(found[0] - found[90]).max() < 1e-4 < np.abs(found[0] - found[1]).max()


@pytest.mark.parametrize("kind", MAKE)
async def test_what_cannot_be_computed_costs_nobody_else(tmp_path: Path, kind: str) -> None:
    async with started(kind, write_bert(tmp_path / "m.gguf")) as engine:
        good = asyncio.create_task(engine.embed(EmbeddingRequest(TEXTS)))
        for size in (100, 20_000):  # the second is encoded in a process of its own
            with pytest.raises(PromptError, match=f"has {size + 2} tokens, .* at most 64"):
                await engine.embed(EmbeddingRequest(("a " * size,)))
        with pytest.raises(ModelKindError, match="does not continue text"):
            async for _ in engine.generate(GenerationRequest(prompt="The")):
                pass
        with pytest.raises(ModelKindError, match="no rank pooling"):
            await engine.embed(EmbeddingRequest(TEXTS, query="?"))
        cut = await engine.embed(EmbeddingRequest(("a " * 20_000,), truncate=True))
        assert cut.num_tokens == 64
        assert len((await good).vectors) == len(TEXTS)


@pytest.mark.parametrize("kind", MAKE)
async def test_a_cancelled_request_makes_room_for_others(tmp_path: Path, kind: str) -> None:
    async with started(kind, write_llama(tmp_path / "m.gguf")) as engine:
        long = engine.embed(EmbeddingRequest(((5,) * 200,) * 2000))
        task = asyncio.create_task(long)
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            await engine.embed(EmbeddingRequest(TEXTS))


async def test_an_answer_goes_on_while_texts_are_embedded(tmp_path: Path) -> None:
    async with started("in process", write_qwen3(tmp_path / "m.gguf")) as engine:
        request = GenerationRequest(
            prompt="The", sampling=SamplingParams(ignore_eos=True, max_tokens=100, temperature=0)
        )
        alone = [chunk.token_ids async for chunk in engine.generate(request)]
        task = asyncio.create_task(engine.embed(EmbeddingRequest(((5,) * 1000,) * 40)))
        beside = [chunk.token_ids async for chunk in engine.generate(request)]
        assert beside == alone
        assert not task.done()
        await task


@pytest.mark.parametrize("kind", MAKE)
async def test_a_reranker_scores_texts_by_a_query(tmp_path: Path, kind: str) -> None:
    async with started(kind, write_bert(tmp_path / "m.gguf", RANK)) as engine:
        found = array(await engine.embed(EmbeddingRequest(TEXTS, query="there")))
        assert found.shape == (len(TEXTS), 1)
        other = array(await engine.embed(EmbeddingRequest(TEXTS[1:2], query="there")))
        assert abs(found[1, 0] - other[0, 0]) < 1e-3
        assert abs(found[0, 0] - found[1, 0]) > 1e-3


@pytest.mark.parametrize("kind", MAKE)
async def test_tokens_of_a_text_and_back(tmp_path: Path, kind: str) -> None:
    async with started(kind, write_llama(tmp_path / "m.gguf")) as engine:
        for text in ("the people é", "a " * 5_000):
            found = await engine.tokenize(TokenizeRequest(text))
            assert b"".join(found.pieces).decode() == f" {text}"
            assert found == await engine.tokenize(TokenizeRequest(found.ids))
        assert 2 not in found.ids
        assert 2 in (await engine.tokenize(TokenizeRequest("</s>"))).ids
        assert 2 not in (await engine.tokenize(TokenizeRequest("</s>", parse_special=False))).ids
        assert (await engine.tokenize(TokenizeRequest("a", add_special=True))).ids[0] == 1
        with pytest.raises(InvalidValueError, match=r"^tokens has token 9999"):
            await engine.tokenize(TokenizeRequest((9999,)))


# ---- another server -------------------------------------------------------------------------


def test_inputs_are_sent_in_parts_and_put_together_by_their_index() -> None:
    request = EmbeddingRequest(tuple(f"{number}" for number in range(100)), truncate=True)
    sent = [*openai_embeddings.bodies(request, "m")]
    assert [count for _, _, count in sent] == [64, 36]
    path, body, _ = sent[1]
    assert (path, body["input"][0], body["truncate"]) == ("/v1/embeddings", "64", True)
    data: list[dict[str, Any]] = [
        {"index": index, "embedding": [float(index), 0.5]} for index in (1, 0)
    ]
    data[0]["embedding"] = "AACAPwAAAD8="
    found = openai_embeddings.parse({"data": data, "usage": {"prompt_tokens": 3}}, path, 2)
    assert found == Embeddings((struct.pack("<2f", 0, 0.5), struct.pack("<2f", 1, 0.5)), 3)


def test_scores_are_those_of_a_reranker() -> None:
    ((path, body, count),) = openai_embeddings.bodies(EmbeddingRequest(("a", "b"), query="c"), "m")
    assert (path, body) == (
        "/v1/rerank",
        {"model": "m", "query": "c", "documents": ["a", "b"], "top_n": 2},
    )
    results = [{"index": 1, "relevance_score": 2}, {"index": 0, "relevance_score": -1.5}]
    found = openai_embeddings.parse({"results": results}, path, count)
    assert [struct.unpack("<f", one) for one in found.vectors] == [(-1.5,), (2.0,)]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [{"index": 0}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": ["1"]}],
        [{"index": 0, "embedding": [1e300]}],
        [{"index": 0, "embedding": "?"}],
        [{"index": 0, "embedding": "AAA="}],
        [{"index": 1, "embedding": [1.0]}],
    ],
    ids=json.dumps,
)
def test_what_is_no_answer_is_an_error(data: object) -> None:
    with pytest.raises(UpstreamError):
        openai_embeddings.parse({"data": data}, "/v1/embeddings", 1)
