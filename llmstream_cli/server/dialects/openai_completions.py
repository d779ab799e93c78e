"""`POST /v1/completions`: prompts that are continued as they are."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from quart import Blueprint, Response

from llmstream_cli.api import Chunk, DrawnLogprob, GenerationRequest
from llmstream_cli.errors import (
    InvalidValueError,
)
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    MAX_TOP_LOGPROBS,
    Dialect,
    Given,
    sampling_params,
    with_choice_seed,
)
from llmstream_cli.server.dialects.fields import (
    ON,
    Refused,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import LocatedLogprob, finite_logprob
from llmstream_cli.server.dialects.openai_common import (
    EVENT_STREAM,
    OPENAI_IGNORED,
    OPENAI_PARAMETERS,
    OPENAI_REFUSED,
    EventEncoder,
    OpenAIRequest,
    Shape,
    answer,
    total_usage,
)
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.respond import Answer

MAX_PROMPTS = 32
MAX_ANSWERS = 32
_MAX_TOKEN_IDS = 2**31  # llama.cpp keeps them in 32 bits

_REFUSED = {
    **OPENAI_REFUSED,
    "echo": Refused((False,), "the client has the prompt"),
    "suffix": Refused(("",), "the answer only continues a prompt"),
    "add_special_tokens": ON,
}


def _as_prompts(value: object) -> object:
    """Make a list of prompts of any of the four shapes that OpenAI's API takes.

    Raises:
        ValueError: it is none of them, or has none or too many.
    """
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PROMPTS:
        raise ValueError(f"must be a string, token ids, or a list of up to {MAX_PROMPTS} of either")
    if not all(isinstance(one, str) or _is_token_ids(one) for one in value):
        raise ValueError("must have strings or lists of token ids, none of them empty")
    return value


def _is_token_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token) is int and 0 <= token < _MAX_TOKEN_IDS for token in value)
    )


Prompt = str | list[int]
_TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=_MAX_TOKEN_IDS)]], Field(min_length=1)]
_Prompts = Annotated[list[str | _TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


@with_fields(OPENAI_PARAMETERS, _REFUSED, OPENAI_IGNORED)
class CompletionRequest(OpenAIRequest):
    """Body of `POST /v1/completions`: prompts that are continued as they are."""

    prompt: Annotated[
        list[Prompt],
        BeforeValidator(_as_prompts, json_schema_input_type=str | _TokenIds | _Prompts),
    ] = Field(
        description="a string, in which control tokens such as `<|im_end|>` are read; token ids; "
        f"or a list of up to {MAX_PROMPTS} of either"
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = Field(
        None, description="report log probabilities, and so many most likely tokens at each place"
    )
    best_of: int | None = Field(None, description="refused unless it is `n`: all are returned")

    @property
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities; of the drawn tokens alone if there are 0."""
        return self.logprobs is not None

    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return the requests of the first prompt's choices, then those of the second's, and so on.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """
        if self.best_of is not None and self.best_of != self.num_choices:
            raise InvalidValueError(
                "best_of must be the same as n: all choices are returned", "best_of"
            )
        if len(self.prompt) * self.num_choices > MAX_ANSWERS:
            raise InvalidValueError(
                f"prompt and n ask for more than {MAX_ANSWERS} answers at once", "prompt"
            )
        sampling = sampling_params(defaults, self._given())
        return [
            GenerationRequest(
                sampling=with_choice_seed(sampling, choice),
                prompt=prompt if isinstance(prompt, str) else tuple(prompt),
            )
            for prompt in self.prompt
            for choice in range(self.num_choices)
        ]

    def _given(self) -> list[Given]:
        given = super()._given()
        if self.logprobs is not None:
            given.append(("logprobs", "logprobs", self.logprobs))
        return given


class CompletionEncoder(EventEncoder):
    """Events of `/v1/completions`."""

    _kind = "text_completion"

    def begin(self) -> bytes:
        """Nothing comes before the text."""
        return b""

    def encode(self, index: int, chunk: Chunk) -> bytes:
        """Send the new text, and at the end of an answer why it ended."""
        located = self._note(index, chunk)
        if not (chunk.text or chunk.finish_reason or (located and self._shape.with_logprobs)):
            return b""
        logprobs = _completion_logprobs(located) if self._shape.with_logprobs else None
        choice = {"text": chunk.text, "index": index, "logprobs": logprobs}
        return self._event([{**choice, "finish_reason": chunk.finish_reason}])


def completion(shape: Shape, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the body of a `/v1/completions` response that is not streamed."""
    choices = [
        {
            "text": answer.text,
            "index": index,
            "logprobs": {name: answer.logprobs[name] for name in _COMPLETION_LISTS}
            if shape.with_logprobs
            else None,
            "finish_reason": answer.finish_reason,
        }
        for index, answer in enumerate(answers)
    ]
    usage = total_usage([answer.usage for answer in answers], shape.num_choices)
    return {**shape.body("text_completion", choices), "usage": usage}


_COMPLETION_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def completion_logprob(located: LocatedLogprob) -> dict[str, Any]:
    """Return what each list of a completion's log probabilities has for a token."""
    drawn = located.logprob.drawn
    values = (
        _completion_token(drawn.piece),
        finite_logprob(drawn.logprob),
        _completion_top(located.logprob),
        located.text_offset,
    )
    return dict(zip(_COMPLETION_LISTS, values, strict=True))


def _completion_logprobs(located: Sequence[LocatedLogprob]) -> dict[str, Any]:
    tokens = [completion_logprob(one) for one in located]
    return {name: [token[name] for token in tokens] for name in _COMPLETION_LISTS}


def _completion_top(logprob: DrawnLogprob) -> dict[str, float]:
    """Return the most likely tokens and the drawn one; of two that read the same, the likelier."""
    top: dict[str, float] = {}
    for token in (*logprob.top, logprob.drawn):
        top.setdefault(_completion_token(token.piece), finite_logprob(token.logprob))
    return top


def _completion_token(piece: bytes) -> str:
    r"""Return a token's text; a part of a character as OpenAI writes it, `bytes:\xe2\x82`."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _routes(context: ServerContext) -> Blueprint:
    blueprint = Blueprint("openai_completions", __name__)

    @blueprint.post("/v1/completions")
    async def completions() -> Response:
        body = await read_model(CompletionRequest)
        return await answer(
            context, body, "cmpl", CompletionEncoder, completion, completion_logprob
        )

    return blueprint


DIALECT = Dialect(
    _routes,
    (
        Operation(
            "post",
            "/v1/completions",
            "Continue prompts, as OpenAI's API does",
            "With `stream`, the answer comes as server-sent events and ends in `[DONE]`.",
            request=CompletionRequest,
            replies=(Reply(200, "The answer.", streamed=EVENT_STREAM),),
        ),
    ),
)
