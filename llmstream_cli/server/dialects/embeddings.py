"""Vectors and scores of texts: `/v1/embeddings`, Ollama's `/api/embed`, and `/v1/rerank`.

The shapes are those of OpenAI's, Ollama's and Jina's API references. Vectors have the length 1. A
list of thousands of numbers is written in a thread: the event loop goes on.
"""

import asyncio
import base64
import math
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema
from quart import Response

from llmstream_cli.api import EmbeddingRequest, Embeddings
from llmstream_cli.errors import BusyError, InvalidValueError, TimeLimitError
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects import common, ollama, ollama_models, openai_common
from llmstream_cli.server.dialects.fields import FieldTable, Given, refused, with_fields
from llmstream_cli.server.http.exchange import current_exchange
from llmstream_cli.server.served import ServedModel, keep_alive_seconds

_Found = TypeVar("_Found")

MAX_INPUTS = 2048
_MAX_TOKEN_ID = 2**31 - 1  # llama.cpp keeps them in 32 bits
_Ids = Annotated[list[Annotated[int, Field(ge=0, le=_MAX_TOKEN_ID)]], Field(min_length=1)]
_Inputs = Annotated[list[str | _Ids], Field(min_length=1, max_length=MAX_INPUTS)]
_Texts = Annotated[list[str], Field(max_length=MAX_INPUTS)]
_ModelName = Annotated[str, Field(max_length=common.MAX_NAME_CHARS)]
_Dimensions = Annotated[int, Field(ge=1, le=2**31 - 1)]


def _is_input(value: object) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return bool(value) and all(type(one) is int and 0 <= one <= _MAX_TOKEN_ID for one in value)


def _as_inputs(value: object) -> object:
    """Make a list of inputs of any of the four shapes that OpenAI's API takes."""
    inputs = value if isinstance(value, list) and not _is_input(value) else [value]
    if not 0 < len(inputs) <= MAX_INPUTS or not all(map(_is_input, inputs)):
        raise ValueError(f"must be a string, token ids, or a list of up to {MAX_INPUTS} of either")
    return inputs


async def bounded(model: str | None, ask: Callable[[ServedModel], Awaitable[_Found]]) -> _Found:
    """Return what a model's engine answers to the current request.

    Raises:
        BusyError: the server is about to stop.
        TimeLimitError: it took too long.
    """
    context = server_context()
    served = context.models.find(model)
    if context.draining:
        raise BusyError("the server is shutting down")
    current_exchange().model = served.name
    seconds = context.settings.timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            return await ask(served)
    except TimeoutError as error:
        raise TimeLimitError(f"the answer took longer than {seconds:g} seconds") from error


async def _embed(model: str | None, request: EmbeddingRequest) -> Embeddings:
    exchange = current_exchange()
    request = replace(request, client=exchange.owner)
    found = await bounded(model, lambda served: served.engine.embed(request))
    exchange.prompt_tokens += found.num_tokens
    return found


async def write_json(body: Callable[[], object]) -> Response:
    """Return what `body` makes as JSON; both is done in a thread."""
    text = await asyncio.to_thread(lambda: common.json_text(body()))
    response = Response(text, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _numbers(vector: bytes) -> list[float]:
    """Return a vector's numbers, with as many digits as they have in 32 bits."""
    return [float(format(value, ".9g")) for (value,) in struct.iter_unpack("<f", vector)]


def _shortened(vectors: Sequence[bytes], dimensions: int | None) -> Sequence[bytes]:
    """Return the first numbers of each vector, of length 1 together again."""
    if dimensions is None:
        return vectors
    size = len(vectors[0]) // 4
    if dimensions > size:
        raise InvalidValueError(
            f"dimensions is {dimensions}, and the model's vectors have {size}", "dimensions"
        )
    layout = f"<{dimensions}f"
    found = []
    for vector in vectors:
        values = struct.unpack_from(layout, vector)
        length = math.hypot(*values) or 1.0
        found.append(struct.pack(layout, *(value / length for value in values)))
    return found


# ---- OpenAI ---------------------------------------------------------------------------------


@with_fields(
    {},
    {
        **refused("messages", [], advice="send input"),
        **refused("truncate_prompt_tokens", advice="send truncate"),
        **refused("add_special_tokens normalize", True),
        **refused("embd_normalize", 2),
        **refused("input_type prompt_name", ""),
    },
    ["user", "priority", "request_id"],
    closed=True,
)
class EmbeddingsRequest(FieldTable):
    """Body of `POST /v1/embeddings`."""

    model: _ModelName | None = Field(
        None, description="a name from `/v1/models`; without it, the default model"
    )
    input: Annotated[
        list[str | list[int]],
        BeforeValidator(_as_inputs, json_schema_input_type=str | _Ids | _Inputs),
    ] = Field(
        description="a text; token ids of the model; or a list of up to "
        f"{MAX_INPUTS} of either. Control tokens in a text are read as text"
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float`, which it is without it, or `base64`: little-endian float32"
    )
    dimensions: _Dimensions | None = Field(
        None, description="cut vectors to their first numbers, and give them the length 1 again"
    )
    truncate: bool | None = Field(
        None, description="cut inputs that are longer than the context, instead of refusing them"
    )

    def request(self) -> EmbeddingRequest:
        inputs = (one if isinstance(one, str) else tuple(one) for one in self.input)
        return EmbeddingRequest(tuple(inputs), truncate=bool(self.truncate))


@openai_common.DIALECT.route(
    "/v1/embeddings",
    "Make a vector of each text, as OpenAI's API does",
    "A model for chat does too: the mean of its last layer.",
    request=EmbeddingsRequest,
)
async def embeddings(body: EmbeddingsRequest) -> Response:
    served = server_context().models.find(body.model)
    found = await _embed(body.model, body.request())

    def answer() -> dict[str, Any]:
        as_text = body.encoding_format == "base64"
        vectors = _shortened(found.vectors, body.dimensions)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(one).decode() if as_text else _numbers(one),
            }
            for index, one in enumerate(vectors)
        ]
        usage = {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens}
        return {"object": "list", "data": data, "model": served.name, "usage": usage}

    return await write_json(answer)


# ---- Ollama ---------------------------------------------------------------------------------


class _OllamaFields(FieldTable):
    model: _ModelName | None = Field(
        None, description="a name from `/api/tags`; without it, the default model"
    )
    truncate: bool | None = Field(
        None, description="cut inputs that are longer than the context: `true` unless it is `false`"
    )
    keep_alive: float | Annotated[str, WithJsonSchema(ollama.DURATION)] | None = Field(
        None, description="as of `/api/chat`"
    )

    def request(self, inputs: Sequence[str]) -> EmbeddingRequest:
        return EmbeddingRequest(
            tuple(inputs), truncate=self.truncate is not False, keep_alive=self.keep_alive_seconds
        )

    @property
    def keep_alive_seconds(self) -> float | None:
        return None if self.keep_alive in (None, "") else keep_alive_seconds(self.keep_alive)


@with_fields({}, {}, ["options"], closed=True)
class OllamaEmbedRequest(_OllamaFields):
    """Body of `POST /api/embed`."""

    input: str | _Texts | None = Field(
        None, description="a text, or a list of them; without any the model is only loaded"
    )
    dimensions: _Dimensions | None = Field(
        None, description="cut vectors to their first numbers, and give them the length 1 again"
    )


@with_fields({}, {}, ["options"], closed=True)
class OllamaEmbeddingsRequest(_OllamaFields):
    """Body of `POST /api/embeddings`, which older clients send."""

    prompt: str | None = Field(None, description="a text; without it the model is only loaded")

    def given(self, prefix: str = "") -> list[Given]:
        return [(f"{prefix}prompt", "input", self.prompt)]


async def _ollama_vectors(
    served: ServedModel, body: _OllamaFields, inputs: Sequence[str]
) -> Embeddings:
    if inputs:
        return await _embed(body.model, body.request(inputs))
    await ollama.load_or_unload(served, body.keep_alive_seconds)
    return Embeddings((), 0)


@ollama_models.DIALECT.route(
    "/api/embed", "Make a vector of each text, as Ollama's API does", request=OllamaEmbedRequest
)
async def ollama_embed(body: OllamaEmbedRequest) -> Response:
    served = server_context().models.find(body.model)
    residency = served.residency
    loaded_before = 0.0 if residency is None else residency.load_seconds
    inputs = [body.input] if isinstance(body.input, str) else body.input or []
    found = await _ollama_vectors(served, body, inputs if inputs != [""] else [])
    loaded = 0.0 if residency is None else residency.load_seconds - loaded_before
    elapsed = time.perf_counter() - current_exchange().started

    def answer() -> dict[str, Any]:
        vectors = _shortened(found.vectors, body.dimensions) if found.vectors else ()
        return {
            "model": body.model or ollama_models.tag_name(served),
            "embeddings": [_numbers(one) for one in vectors],
            "total_duration": max(1, round(elapsed * 1e9)),
            "load_duration": round(loaded * 1e9),
            "prompt_eval_count": found.num_tokens,
        }

    return await write_json(answer)


@ollama_models.DIALECT.route(
    "/api/embeddings",
    "Make a vector of a text, as Ollama's API did before `/api/embed`",
    request=OllamaEmbeddingsRequest,
)
async def ollama_embeddings(body: OllamaEmbeddingsRequest) -> Response:
    served = server_context().models.find(body.model)
    found = await _ollama_vectors(served, body, [body.prompt] if body.prompt else [])
    return await write_json(
        lambda: {"embedding": _numbers(found.vectors[0]) if found.vectors else []}
    )


# ---- scores ---------------------------------------------------------------------------------


class Document(FieldTable):
    text: str


@with_fields(
    {},
    {
        **refused("texts", [], advice="send documents"),
        **refused("max_chunks_per_doc max_tokens_per_doc", advice="send truncate"),
        **refused("rank_fields", []),
    },
    ["user", "priority", "request_id"],
    closed=True,
)
class RerankRequest(FieldTable):
    """Body of `POST /v1/rerank`."""

    model: _ModelName | None = Field(
        None, description="a reranker, by a name from `/v1/models`; without it, the default model"
    )
    query: str = Field(description="what is asked")
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MAX_INPUTS)] = Field(
        description="texts, or objects with a `text`"
    )
    top_n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="return only so many, the best"
    )
    return_documents: bool | None = Field(None, description="return the texts as well")
    normalize: bool | None = Field(
        None, description="put scores between 0 and 1 (the logistic function of the model's own)"
    )
    truncate: bool | None = Field(
        None, description="cut documents that do not fit the context, instead of refusing them"
    )

    def given(self, prefix: str = "") -> list[Given]:
        return [(f"{prefix}documents", "input", self.documents)]


async def rerank(body: RerankRequest) -> Response:
    served = server_context().models.find(body.model)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    asked = EmbeddingRequest(tuple(texts), truncate=bool(body.truncate), query=body.query)
    found = await _embed(body.model, asked)
    scores = [struct.unpack("<f", one)[0] for one in found.vectors]
    if body.normalize:
        scores = [1 / (1 + math.exp(-max(-700.0, score))) for score in scores]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {
            "index": index,
            "relevance_score": float(format(scores[index], ".9g")),
            **({"document": {"text": texts[index]}} if body.return_documents else {}),
        }
        for index in best
    ]
    usage = {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens}
    answer = {"object": "list", "model": served.name, "results": results, "usage": usage}
    return await write_json(lambda: answer)


for path in ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"):
    summary = "Sort texts by how well they answer a query, as Jina's API does"
    openai_common.DIALECT.route(path, summary, request=RerankRequest)(rerank)
