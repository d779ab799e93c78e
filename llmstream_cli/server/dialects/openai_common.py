"""What the routes of OpenAI's API share: fields, events, usage.

The fields are those of OpenAI's API reference for `/v1/chat/completions` and `/v1/completions`,
and what llama-server, vLLM and SGLang add to them: see `fields`. A field that is unknown is
ignored, because clients send many. The shapes are those of the reference, too. Events are `data:`
lines with an empty line behind each (WHATWG HTML, section "Server-sent events"); a stream that
ends well ends in `[DONE]`.
"""

import hashlib
import time
import uuid
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from quart import Response

import llmstream_cli
from llmstream_cli.api import Chunk, GenerationRequest, Usage
from llmstream_cli.errors import (
    LLMStreamError,
)
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    MAX_NAME_CHARS,
    Given,
    choice_grammar,
    client_names,
    dump_line,
    fields_as_given,
    given_parameters,
    json_response,
)
from llmstream_cli.server.dialects.fields import (
    NONE,
    OFF,
    ON,
    SAMPLER_DETAILS,
    SAMPLERS,
    Refused,
    names_in,
)
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, LocatedLogprob
from llmstream_cli.server.dialects.openai_formats import (
    Choices,
    OpenAIFields,
    ResponseFormat,
    StructuredOutputs,
)
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.respond import Answer, Encoder, LogprobFields, collect, stream
from llmstream_cli.server.served import ServedModel

MAX_CHOICES = 8

_AS_STOP = "send the text of the tokens as stop"

OPENAI_REFUSED = {
    **SAMPLERS,
    # of llama-server
    **dict.fromkeys(
        ("top_a", "xtc_probability", "dry_multiplier", "dynatemp_range"), Refused((0,))
    ),
    **dict.fromkeys(("min_keep", "n_indent", "n_probs"), Refused((0,))),
    **dict.fromkeys(("samplers", "lora", "response_fields"), Refused(([],))),
    **dict.fromkeys(("post_sampling_probs", "return_tokens", "grammar_lazy"), OFF),
    "top_n_sigma": Refused((-1, 0)),
    "adaptive_target": Refused((-1,)),
    "t_max_predict_ms": Refused((-1, 0), "send max_tokens"),
    "penalize_nl": ON,
    # of vLLM and SGLang
    **dict.fromkeys(("min_tokens", "min_new_tokens"), Refused((0,), "send ignore_eos")),
    "stop_token_ids": Refused(([],), _AS_STOP),
    "stop_regex": Refused(([], "")),
    "bad_words": Refused(([],), "send logit_bias"),
    "allowed_token_ids": Refused(advice="send logit_bias"),
    "length_penalty": Refused((1,)),
    **dict.fromkeys(("use_beam_search", "include_stop_str_in_output", "no_stop_trim"), OFF),
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids"), OFF),
    **dict.fromkeys(("prompt_logprobs", "truncate_prompt_tokens", "lora_path"), NONE),
    **dict.fromkeys(("guided_whitespace_pattern", "structural_tag"), NONE),
    "logits_processors": Refused(([],)),
    "skip_special_tokens": ON,
    # of Mistral
    "safe_prompt": Refused((False,), "send a system message"),
    "prompt_mode": NONE,
}
# For accounts and caches, for the speed, or details of samplers that are refused.
OPENAI_IGNORED = (
    *("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "store", "user", "priority", "request_id", "cache_salt"),
    *("cache_prompt", "id_slot", "n_cache_reuse", "n_discard", "n_keep", "slot_id", "verbose"),
    *("return_progress", "timings_per_token", "kv_transfer_params", "guided_decoding_backend"),
    *("dry_allowed_length", "dry_base", "dry_penalty_last_n", "dry_sequence_breakers"),
    *("adaptive_decay", "dynatemp_exponent", "xtc_threshold", "spaces_between_special_tokens"),
    *SAMPLER_DETAILS,
)

_OPENAI_APIS = ("llamacpp", "openai", "vllm", "sglang")
_MORE_NAMES = {
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "random_seed": "seed",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
}
OPENAI_PARAMETERS = names_in(*_OPENAI_APIS) | _MORE_NAMES
del OPENAI_PARAMETERS["response_format"]


class StreamOptions(OpenAIFields):
    """How to stream."""

    include_usage: bool | None = None


class OpenAIRequest(OpenAIFields):
    """What both routes take beside the sampling parameters."""

    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = Field(
        None, description="a name from `/v1/models`; without it, the default model"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    stream_options: StreamOptions | None = Field(
        None, description="`include_usage`: end the stream with what it cost"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None,
        description="answers to each prompt; each takes a place in the queue, so that more of them "
        "than `--parallel` and `--queue` together get 429",
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="by its `type`: `text`; `json_object`, the answer is a JSON object, and "
        "fulfils `schema` if there is one; `json_schema`, it fulfils `json_schema.schema`, "
        "`schema` or `value`, `strict` or not; `regex`, it matches `regex`, `pattern` or `value`; "
        "`grammar`, it follows `grammar` or `value`. The header `X-Schema-Ignored` names what in a "
        "schema is [passed over](structured-output.md)",
    )
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="vLLM's form of the same: `json`, `json_object`, `regex`, `choice`, `grammar`",
    )
    guided_choice: Choices | None = Field(None, description="the answer is one of these texts")

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what it cost."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def thinks(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model."""
        return None

    @property
    @abstractmethod
    def includes_logprobs(self) -> bool:
        """Whether the answer has log probabilities."""

    @abstractmethod
    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return one request for each answer.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """

    @property
    def client_names(self) -> dict[str, str]:
        """The fields that a client gave, by the parameters that they set."""
        return client_names(self._given())

    def _given(self) -> list[Given]:
        """Return the parameters that are present."""
        given = given_parameters(self)
        fields = {field for field, _, _ in given}
        if "repetition_penalty" in fields and "repeat_last_n" not in fields:
            # Whose name that is penalizes all of the context.
            given.append(("repetition_penalty", "repeat_last_n", -1))
        if self.response_format is not None:
            given += self.response_format.given("response_format")
        if self.structured_outputs is not None:
            given += self.structured_outputs.given("structured_outputs")
        if self.guided_choice is not None:
            given.append(("guided_choice", "grammar", choice_grammar(self.guided_choice)))
        return given


EVENT_STREAM = "text/event-stream; charset=utf-8"
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What all bodies and events of one response have in common.

    Attributes:
        id: of the response.
        created: when, in seconds since 1970.
        model: the served model's name.
        system_fingerprint: changes when other answers to the same seed have to be expected.
        num_answers: choices of all prompts together.
        num_choices: choices of each prompt.
        with_usage: end a stream with what it cost.
        with_logprobs: send log probabilities.
    """

    id: str
    created: int
    model: str
    system_fingerprint: str
    num_answers: int = 1
    num_choices: int = 1
    with_usage: bool = False
    with_logprobs: bool = False

    def body(self, kind: str, choices: Sequence[object]) -> dict[str, Any]:
        """Return a body of that `object` kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
        }


class EventEncoder(Encoder):
    """Server-sent events of several choices; a subclass knows what one looks like."""

    content_type = EVENT_STREAM
    heartbeat = b": ping\n\n"  # a comment, which clients skip
    _kind: str

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._logprobs = [AlignedLogprobs() for _ in range(shape.num_answers)]
        self._usages: list[Usage | None] = [None] * shape.num_answers

    def end(self) -> bytes:
        """End a stream whose answers are all complete."""
        if not self._shape.with_usage:
            return _DONE
        return self._event([], usage=total_usage(self._usages, self._shape.num_choices)) + _DONE

    def fail(self, error: LLMStreamError) -> bytes:
        """End a stream with an error; `[DONE]` does not come."""
        return b"data: " + dump_line(error_body(error)) + b"\n\n"

    def _note(self, index: int, chunk: Chunk) -> list[LocatedLogprob]:
        """Take a chunk's usage, and return the log probabilities that go with its text."""
        if chunk.usage is not None:
            self._usages[index] = chunk.usage
        return self._logprobs[index].push(chunk.text, chunk.logprobs)

    def _event(self, choices: Sequence[object], usage: object = None) -> bytes:
        body = self._shape.body(self._kind, choices)
        if self._shape.with_usage:  # then every event has the field
            body["usage"] = usage
        return b"data: " + dump_line(body) + b"\n\n"


def total_usage(of_answers: Sequence[Usage | None], num_choices: int) -> dict[str, Any]:
    """Return what all answers cost; the prompt of several choices counts once."""
    usages = [usage for usage in of_answers if usage is not None]
    assert len(usages) == len(of_answers)  # every complete answer has one
    of_prompts = usages[::num_choices]
    prompt_tokens = sum(usage.prompt_tokens for usage in of_prompts)
    cached_tokens = sum(usage.cached_tokens for usage in of_prompts)
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    reasoning_tokens = sum(usage.reasoning_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


async def answer(
    context: ServerContext,
    body: OpenAIRequest,
    prefix: str,
    encoder: Callable[[Shape], Encoder],
    whole: Callable[[Shape, Sequence[Answer]], dict[str, Any]],
    logprob: LogprobFields,
) -> Response:
    """Answer a request, streamed or whole.

    Args:
        context: the server's.
        body: what is asked.
        prefix: of the response's id.
        encoder: writes the events of a stream.
        whole: returns the body of a response that is not streamed.
        logprob: see `collect`.
    """
    with fields_as_given(body.client_names):  # errors of the engine's, too
        served = context.models.find(body.model)
        requests = body.generation_requests(served.sampling_for(body.thinks))
        shape = Shape(
            id=f"{prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=served.name,
            system_fingerprint=_system_fingerprint(served),
            num_answers=len(requests),
            num_choices=body.num_choices,
            with_usage=body.includes_usage,
            with_logprobs=body.includes_logprobs,
        )
        if body.stream:
            return await stream(served, requests, encoder(shape))
        answers = await collect(served, requests, logprob if shape.with_logprobs else None)
        return json_response(whole(shape, answers))


def _system_fingerprint(served: ServedModel) -> str:
    """Name all that decides what a seed draws: program, model file, and the server's defaults."""
    parts = (llmstream_cli.__version__, served.name, served.created, served.sampling)
    return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]
