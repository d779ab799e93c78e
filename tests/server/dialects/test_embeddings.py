"""Routes that embed, with an engine that makes vectors of lengths, and the real clients."""

import base64
import struct
from typing import Any

import ollama
import openai
import pytest

from llmstream_cli.api import EmbeddingRequest
from llmstream_cli.errors import EngineError, ModelKindError, PromptError
from tests.server.fakes import serving
from tests.server.scripted import ScriptedEngine, client

SIZES = [0.5, 0.75]  # of the scripted vectors, before the number of characters


async def post(path: str, body: dict[str, Any], engine: ScriptedEngine | None = None) -> Any:
    response = await client(engine or ScriptedEngine()).post(path, json=body)
    return response.status_code, await response.get_json()


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("abc", ("abc",)),
        (["abc", ""], ("abc", "")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
    ],
)
async def test_inputs_of_every_shape(given: object, inputs: tuple[object, ...]) -> None:
    engine = ScriptedEngine()
    status, body = await post("/v1/embeddings", {"input": given}, engine)
    assert status == 200
    assert engine.embedded[0].inputs == inputs
    assert not engine.embedded[0].truncate
    lengths = [len(one) for one in engine.embedded[0].inputs]
    assert body == {
        "object": "list",
        "model": "tiny",
        "data": [
            {"object": "embedding", "index": index, "embedding": [*SIZES, length]}
            for index, length in enumerate(lengths)
        ],
        "usage": {"prompt_tokens": sum(lengths), "total_tokens": sum(lengths)},
    }


async def test_base64_is_little_endian_floats_and_dimensions_cut() -> None:
    asked = {"input": "abcd", "encoding_format": "base64"}
    _, body = await post("/v1/embeddings", asked)
    data = base64.b64decode(body["data"][0]["embedding"])
    assert struct.unpack("<3f", data) == pytest.approx([*SIZES, 4])
    _, body = await post("/v1/embeddings", {"input": "abcd", "dimensions": 1})
    assert body["data"][0]["embedding"] == [1.0]
    _, body = await post("/v1/embeddings", {"input": "abcd", "dimensions": 2, "truncate": True})
    assert body["data"][0]["embedding"] == pytest.approx([0.5547002, 0.8320503])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": []}, "input must be a string, token ids, or a list of up to 2048 of either"),
        ({"input": [[]]}, "input must be a string, token ids"),
        ({"input": [-1]}, "input must be a string, token ids"),
        ({"input": ["a"] * 2049}, "input must be a string, token ids"),
        ({}, "input is missing"),
        ({"input": "a", "dimensions": 4}, "dimensions is 4, and the model's vectors have 3"),
        ({"input": "a", "dimensions": 0}, "dimensions must be an integer"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format must be one of"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens is not supported"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    status, body = await post("/v1/embeddings", fields)
    assert status == 422
    assert body["error"]["message"].startswith(message)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed"])
@pytest.mark.parametrize(
    ("error", "status"),
    [(PromptError("long"), 400), (ModelKindError("kind"), 422), (EngineError("bad"), 500)],
)
async def test_errors_of_the_engine(path: str, error: Exception, status: int) -> None:
    found, body = await post(path, {"input": "a"}, ScriptedEngine([error]))
    assert found == status
    assert str(error) in str(body)


async def test_ollamas_routes() -> None:
    engine = ScriptedEngine()
    status, body = await post("/api/embed", {"model": "tiny", "input": ["a", "bc"]}, engine)
    assert (status, body["model"], body["prompt_eval_count"]) == (200, "tiny", 3)
    assert body["embeddings"] == [[*SIZES, 1], [*SIZES, 2]]
    assert body["total_duration"] > 0 == body["load_duration"]
    status, body = await post("/api/embeddings", {"prompt": "abc"}, engine)
    assert (status, body) == (200, {"embedding": [*SIZES, 3]})
    assert all(request.truncate for request in engine.embedded)
    asked = {"input": "a", "truncate": False, "keep_alive": "5m", "options": {"num_ctx": 8}}
    await post("/api/embed", asked, engine)
    owned = EmbeddingRequest(("a",), keep_alive=300.0, client=engine.embedded[-1].client)
    assert engine.embedded[-1] == owned


@pytest.mark.parametrize(("path", "field"), [("embed", "input"), ("embeddings", "prompt")])
async def test_without_a_text_the_model_is_only_loaded(path: str, field: str) -> None:
    engine = ScriptedEngine()
    for given in ({}, {field: ""}):
        status, body = await post(f"/api/{path}", given, engine)
        assert status == 200
        assert body.get("embeddings", body.get("embedding")) == []
    assert not engine.embedded


async def test_the_real_clients() -> None:
    async with serving() as served:
        url = served.url
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as theirs:
            found = await theirs.embeddings.create(model="fake", input=["a", "b"])  # as base64
            assert [one.embedding for one in found.data] == [[0.5] * 4] * 2
            assert found.usage.total_tokens == 7
            plain = await theirs.embeddings.create(
                model="fake", input="a", encoding_format="float", dimensions=1
            )
            assert plain.data[0].embedding == [1.0]
            with pytest.raises(openai.UnprocessableEntityError, match="dimensions is 9"):
                await theirs.embeddings.create(model="fake", input="a", dimensions=9)
        async with ollama.AsyncClient(url) as other:
            embedded = await other.embed("fake", ["a", "b"])
            assert [[*one] for one in embedded.embeddings] == [[0.5] * 4] * 2
            legacy = await other.embeddings("fake", "a")
            assert [*legacy.embedding] == [0.5] * 4


# ---- scores ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/reranking", "/reranking"])
async def test_documents_are_sorted_by_their_scores(path: str) -> None:
    engine = ScriptedEngine()
    asked: dict[str, Any] = {"query": "?", "documents": ["aa", {"text": "aaaa"}, "a"]}
    status, body = await post(path, asked, engine)
    assert status == 200
    assert (engine.embedded[0].query, engine.embedded[0].inputs) == ("?", ("aa", "aaaa", "a"))
    assert body == {
        "object": "list",
        "model": "tiny",
        "results": [
            {"index": 1, "relevance_score": 4.0},
            {"index": 0, "relevance_score": 2.0},
            {"index": 2, "relevance_score": 1.0},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    more = {"top_n": 1, "return_documents": True, "normalize": True}
    _, body = await post(path, asked | more, engine)
    (best,) = body["results"]
    assert best["document"] == {"text": "aaaa"}
    assert best["relevance_score"] == pytest.approx(0.98201379)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"documents": []}, "documents must be a list of 1 to 2048 items"),
        ({"documents": [1]}, "documents.0 must be a string or an object"),
        ({"documents": ["a"], "top_n": 0}, "top_n must be an integer from 1"),
        ({"texts": ["a"], "documents": ["a"]}, "texts is not supported; send documents"),
    ],
)
async def test_what_cannot_be_ranked_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    status, body = await post("/v1/rerank", {"query": "?", **fields})
    assert status == 422
    assert body["error"]["message"].startswith(message)


# ---- tokens ---------------------------------------------------------------------------------


async def test_tokens_in_llama_servers_shape() -> None:
    status, body = await post("/tokenize", {"content": "aé"})
    assert (status, body) == (200, {"tokens": [97, 195, 169]})
    _, body = await post("/tokenize", {"content": "aé", "with_pieces": True})
    assert body["tokens"][:2] == [{"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}]
    assert (await post("/tokenize", {}))[1] == {"tokens": []}
    assert (await post("/detokenize", {"tokens": [97, 195, 169, 195]}))[1] == {
        "content": "aé\ufffd"
    }
    assert (await post("/detokenize", {"tokens": [*range(256)] * 400}))[0] == 200
    status, body = await post("/tokenize", {"prompt": "a"})
    assert (status, body["error"]["param"]) == (422, "prompt")
    assert (await post("/detokenize", {"tokens": [-1]}))[0] == 422
