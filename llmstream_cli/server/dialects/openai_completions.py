"""`POST /v1/completions`: prompts that are continued as they are."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from quart import Response

from llmstream_cli.api import Chunk, GenerationRequest, TokenLogprob
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.dialects import openai_common
from llmstream_cli.server.dialects.fields import Given, refused, with_fields
from llmstream_cli.server.dialects.logprobs import MAX_TOP_LOGPROBS, LocatedLogprob, finite_logprob
from llmstream_cli.server.respond import Answer

MAX_PROMPTS = 32
MAX_ANSWERS = 32

_REFUSED = {
    **openai_common.REFUSED,
    **refused("echo", False, advice="the client has the prompt"),
    **refused("suffix", "", advice="the answer only continues a prompt"),
    **refused("add_special_tokens", True),
}


# An item that is wrong is enough: there may be a hundred thousand.
_MAX_TOKEN_ID = 2**31 - 1  # llama.cpp keeps them in 32 bits
_TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=_MAX_TOKEN_ID)]], Field(min_length=1)]
_Prompts = Annotated[list[str | _TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


def _is_prompt(value: object) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return bool(value) and all(type(one) is int and 0 <= one <= _MAX_TOKEN_ID for one in value)


def _as_prompts(value: object) -> object:
    """Make a list of prompts of any of the four shapes that OpenAI's API takes."""
    prompts = value if isinstance(value, list) and not _is_prompt(value) else [value]
    if not 0 < len(prompts) <= MAX_PROMPTS or not all(map(_is_prompt, prompts)):
        raise ValueError(f"must be a string, token ids, or a list of up to {MAX_PROMPTS} of either")
    return prompts


@with_fields(openai_common.PARAMETERS, _REFUSED, openai_common.IGNORED)
class CompletionRequest(openai_common.OpenAIRequest):
    """Body of `POST /v1/completions`: prompts that are continued as they are."""

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_as_prompts, json_schema_input_type=str | _TokenIds | _Prompts),
    ] = Field(
        description="a string, in which control tokens such as `<|im_end|>` are read; token ids; "
        f"or a list of up to {MAX_PROMPTS} of either"
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="report log probabilities, and so many most likely tokens at each place"
    )
    best_of: int | None = Field(None, description="refused unless it is `n`: all are returned")

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix)
        if self.logprobs is not None:
            given.append(("logprobs", "logprobs", self.logprobs))
        return given

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidValueError(
                "best_of must be the same as n: all choices are returned", "best_of"
            )
        if len(self.prompt) * self.num_choices > MAX_ANSWERS:
            raise InvalidValueError(
                f"prompt and n ask for more than {MAX_ANSWERS} answers at once", "prompt"
            )
        samplings = self.sampling(defaults)
        return [
            GenerationRequest(
                sampling=sampling, prompt=prompt if isinstance(prompt, str) else tuple(prompt)
            )
            for prompt in self.prompt
            for sampling in samplings
        ]


class CompletionEncoder(openai_common.OpenAIEncoder):
    """Per choice text, and why it ended."""

    id_prefix = "cmpl"
    body_kind = event_kind = "text_completion"
    logprob_lists = ("tokens", "token_logprobs", "top_logprobs", "text_offset")

    def encode(self, index: int, chunk: Chunk) -> bytes:
        logprobs = self.note(index, chunk)
        if not (chunk.text or chunk.finish_reason or logprobs):
            return b""
        choice = {"text": chunk.text, "index": index, "logprobs": self.logprobs(logprobs)}
        return self.event({**choice, "finish_reason": chunk.finish_reason})

    def choice(self, answer: Answer) -> dict[str, Any]:
        return {"text": answer.text}

    @staticmethod
    def logprob_fields(located: LocatedLogprob) -> dict[str, Any]:
        drawn = located.logprob.drawn
        top: dict[str, float] = {}
        for token in (*located.logprob.top, drawn):
            # Of two that read the same, the likelier.
            top.setdefault(_token_text(token), finite_logprob(token.logprob))
        return {
            "tokens": _token_text(drawn),
            "token_logprobs": finite_logprob(drawn.logprob),
            "top_logprobs": top,
            "text_offset": located.text_offset,
        }


def _token_text(token: TokenLogprob) -> str:
    r"""Return a token's text; a part of a character as OpenAI writes it, `bytes:\xe2\x82`."""
    try:
        return token.piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.piece)


@openai_common.DIALECT.route(
    "/v1/completions",
    "Continue prompts, as OpenAI's API does",
    "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
    request=CompletionRequest,
    streamed=CompletionEncoder.content_type,
)
async def completions(body: CompletionRequest) -> Response:
    return await openai_common.answer(body, CompletionEncoder)
