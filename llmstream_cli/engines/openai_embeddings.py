"""Embeddings and scores of another server, in the words of OpenAI's and Jina's APIs."""

import base64
import binascii
import math
import struct
from collections.abc import Iterator
from typing import Any

from llmstream_cli.api import EmbeddingRequest, Embeddings
from llmstream_cli.errors import UpstreamError

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"

_MAX_INPUTS = 64  # of a request: servers bound them, and so is what is read of an answer


def bodies(request: EmbeddingRequest, model: str) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield the path and body of each request to send, and how many vectors answer it."""
    # A server that does not know the word refuses an input that is too long.
    more: dict[str, Any] = {"truncate": True} if request.truncate else {}
    for start in range(0, len(request.inputs), _MAX_INPUTS):
        inputs = request.inputs[start : start + _MAX_INPUTS]
        body: dict[str, Any] = {"model": model, **more}
        if request.query is None:
            body |= {"input": [*inputs], "encoding_format": "float"}
            yield EMBEDDINGS, body, len(inputs)
        else:
            body |= {"query": request.query, "documents": [*inputs], "top_n": len(inputs)}
            yield RERANK, body, len(inputs)


def parse(answer: object, path: str, count: int) -> Embeddings:
    """Return what an answer has for so many inputs, in their order."""
    key = "results" if path == RERANK else "data"
    entries = answer.get(key) if isinstance(answer, dict) else None
    found: dict[object, bytes] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            value = [entry.get("relevance_score")] if path == RERANK else entry.get("embedding")
            found[entry.get("index")] = _packed(value)
    if found.keys() != set(range(count)):
        raise UpstreamError(f"the server did not answer with {count} {key} of these inputs")
    vectors = tuple(found[index] for index in range(count))
    if len({len(vector) for vector in vectors}) != 1:
        raise UpstreamError("the server sent vectors of different lengths")
    return Embeddings(vectors, _num_tokens(answer))


def _packed(value: object) -> bytes:
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except (ValueError, binascii.Error) as error:
            raise UpstreamError("the server sent a vector that is no base64") from error
        if data and not len(data) % 4:
            return data
    elif isinstance(value, list) and value and all(map(_is_number, value)):
        return struct.pack(f"<{len(value)}f", *value)
    raise UpstreamError("the server sent a vector that is no list of numbers")


def _is_number(value: object) -> bool:
    limit = 3.4e38  # float32's
    return type(value) in {int, float} and math.isfinite(value) and abs(value) < limit  # type: ignore[arg-type]


def _num_tokens(answer: object) -> int:
    match answer:
        case {"usage": {"prompt_tokens": int(count)}} | {"usage": {"total_tokens": int(count)}}:
            return max(0, count)
    return 0
