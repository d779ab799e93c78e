"""Texts to tokens and back: `/tokenize` and `/detokenize`, in llama-server's shape."""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from quart import Response

from llmstream_cli.api import TokenizeRequest, Tokens
from llmstream_cli.server.body import MAX_TOKEN_IDS
from llmstream_cli.server.dialects import common, openai_common
from llmstream_cli.server.dialects.embeddings import bounded, write_json
from llmstream_cli.server.dialects.fields import FieldTable, refused, with_fields
from llmstream_cli.server.http.exchange import current_exchange

_MAX_TOKEN_ID = 2**31 - 1  # llama.cpp keeps them in 32 bits
_MODEL = Field(None, description="a name from `/v1/models`; without it, the default model")
_ModelName = Annotated[str, Field(max_length=common.MAX_NAME_CHARS)]


@with_fields(
    {},
    {**refused("prompt", advice="send content"), **refused("messages", [], advice="send content")},
    closed=True,
)
class TokenizeBody(FieldTable):
    """Body of `POST /tokenize`."""

    model: _ModelName | None = _MODEL
    content: str | None = Field(None, description="the text; without it there are no tokens")
    add_special: bool | None = Field(
        None, description="put the tokens at its ends that the model wants there"
    )
    parse_special: bool | None = Field(
        None, description="read `<|im_end|>` and the like as control tokens unless it is `false`"
    )
    with_pieces: bool | None = Field(
        None, description="tell of each token its `id` and its `piece`"
    )


@with_fields({}, refused("prompt", advice="send tokens"), closed=True)
class DetokenizeBody(FieldTable):
    """Body of `POST /detokenize`."""

    model: _ModelName | None = _MODEL
    tokens: Annotated[
        list[Annotated[int, Field(ge=0, le=_MAX_TOKEN_ID)]], Field(max_length=MAX_TOKEN_IDS)
    ] = Field(description="token ids")


async def _tokens(model: str | None, request: TokenizeRequest) -> Tokens:
    request = replace(request, client=current_exchange().owner)
    return await bounded(model, lambda served: served.engine.tokenize(request))


@openai_common.DIALECT.route(
    "/tokenize", "Split a text into tokens, as llama-server does", request=TokenizeBody
)
async def tokenize(body: TokenizeBody) -> Response:
    asked = TokenizeRequest(
        body.content or "",
        add_special=bool(body.add_special),
        parse_special=body.parse_special is not False,
    )
    found = await _tokens(body.model, asked)

    def answer() -> dict[str, Any]:
        if not body.with_pieces:
            return {"tokens": found.ids}
        pairs = zip(found.ids, found.pieces, strict=True)
        return {"tokens": [{"id": token, "piece": _written(piece)} for token, piece in pairs]}

    return await write_json(answer)


def _written(piece: bytes) -> str | list[int]:
    """Return a piece as text; as its bytes where they are a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return [*piece]


@openai_common.DIALECT.route(
    "/detokenize", "Make a text of tokens, as llama-server does", request=DetokenizeBody
)
async def detokenize(body: DetokenizeBody) -> Response:
    found = await _tokens(body.model, TokenizeRequest(tuple(body.tokens)))
    text = b"".join(found.pieces).decode("utf-8", "replace")
    return await write_json(lambda: {"content": text})
