"""What the routes of OpenAI's API share: fields, events, usage; and `GET /v1/models`.

The fields are those of OpenAI's API reference for `/v1/chat/completions` and `/v1/completions`,
and what llama-server, vLLM and SGLang add to them. A field that is unknown is ignored, because
clients send many. Events are `data:` lines with an empty line behind each (WHATWG HTML, section
"Server-sent events"); a stream that ends well ends in `[DONE]`.
"""

import hashlib
import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from quart import Response

import llmstream_cli
from llmstream_cli.api import Chunk, GenerationRequest, Usage
from llmstream_cli.errors import InvalidValueError, LLMStreamError
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects import common, fields
from llmstream_cli.server.dialects.fields import (
    ClosedFields,
    FieldTable,
    Given,
    refused,
    with_fields,
)
from llmstream_cli.server.dialects.logprobs import AlignedLogprobs, LocatedLogprob
from llmstream_cli.server.http.failure import error_body
from llmstream_cli.server.respond import Answer, Encoder, collect, stream
from llmstream_cli.server.served import ServedModel

DIALECT = common.Dialect()
MAX_CHOICES = 8

PARAMETERS = {
    **fields.names_in("llamacpp", "openai", "vllm", "sglang"),
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "random_seed": "seed",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "grammar",
}
REFUSED = {
    # Samplers that there are not
    **refused("typical_p tfs_z", 1),
    **refused("mirostat top_a xtc_probability dry_multiplier dynatemp_range", 0),
    **refused("top_n_sigma", -1, 0),
    **refused("adaptive_target", -1),
    # of llama-server
    **refused("min_keep n_indent n_probs", 0),
    **refused("samplers lora response_fields", []),
    **refused("post_sampling_probs return_tokens grammar_lazy", False),
    **refused("t_max_predict_ms", -1, 0, advice="send max_tokens"),
    **refused("penalize_nl", True),
    # of vLLM and SGLang
    **refused("min_tokens min_new_tokens", 0, advice="send ignore_eos"),
    **refused("stop_token_ids", [], advice="send the text of the tokens as stop"),
    **refused("stop_regex", [], ""),
    **refused("bad_words", [], advice="send logit_bias"),
    **refused("allowed_token_ids", advice="send logit_bias"),
    **refused("length_penalty", 1),
    **refused("use_beam_search include_stop_str_in_output no_stop_trim", False),
    **refused("return_token_ids return_tokens_as_token_ids", False),
    **refused("prompt_logprobs truncate_prompt_tokens lora_path"),
    **refused("guided_whitespace_pattern structural_tag"),
    **refused("logits_processors", []),
    **refused("skip_special_tokens", True),
    # of Mistral
    **refused("safe_prompt", False, advice="send a system message"),
    **refused("prompt_mode"),
}
# For accounts and caches, for the speed, or details of samplers that are refused.
IGNORED = """
    metadata prompt_cache_key prompt_cache_retention safety_identifier service_tier store user
    priority request_id cache_salt cache_prompt id_slot n_cache_reuse n_discard n_keep slot_id
    verbose return_progress timings_per_token kv_transfer_params guided_decoding_backend
    dry_allowed_length dry_base dry_penalty_last_n dry_sequence_breakers adaptive_decay
    dynatemp_exponent xtc_threshold spaces_between_special_tokens mirostat_tau mirostat_eta
""".split()  # noqa: SIM905  (names without quotes)

_Choices = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1024)
]


class JsonSchemaFormat(FieldTable):
    """A JSON schema under a name."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")


@with_fields({}, refused("structural_tag structures triggers whitespace_pattern"), closed=True)
class ResponseFormat(ClosedFields):
    """What the answer has to look like, in the words of several APIs."""

    type: Literal["text", "json_object", "json", "json_schema", "regex", "grammar"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None

    def given(self, prefix: str = "response_format") -> list[Given]:
        if self.type == "text":
            return []
        if self.type in {"regex", "grammar"}:
            texts = (self.regex or self.pattern) if self.type == "regex" else self.grammar
            text = texts or self.value
            if not isinstance(text, str) or not text:
                raise InvalidValueError(f"{prefix}.{self.type} must be a string", prefix)
            return [(prefix, self.type, text)]
        value = self.value if isinstance(self.value, dict) else {}
        places = {
            "json_schema.schema": self.json_schema and self.json_schema.schema_,
            "schema": self.schema_,
            "value.schema": value.get("schema"),  # Hugging Face's servers take it under a name
            "value": self.value,
        }
        for place, schema in places.items():
            if isinstance(schema, dict):
                return [(f"{prefix}.{place}", "json_schema", fields.schema_text(schema))]
        if self.type == "json_schema":
            raise InvalidValueError(
                f"{prefix}.json_schema.schema is missing, which is the schema to follow", prefix
            )
        return [(prefix, "json_schema", common.JSON_OBJECT)]


@with_fields(
    {"json_": "json_schema", "regex": "regex", "choice": "grammar", "grammar": "grammar"},
    {
        **refused("structural_tag whitespace_pattern"),
        **refused("disable_any_whitespace disable_additional_properties", False),
        **refused("disable_fallback", False, True),  # to another library: there is none
    },
    closed=True,
)
class StructuredOutputs(ClosedFields):
    """vLLM's name for what the answer has to look like."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: _Choices | None = None
    grammar: str | None = None

    def given(self, prefix: str = "structured_outputs.") -> list[Given]:
        found = super().given(prefix)
        if self.json_object:
            found.append((f"{prefix}json_object", "json_schema", common.JSON_OBJECT))
        return found


class StreamOptions(FieldTable):
    """How to stream."""

    include_usage: bool | None = None


class OpenAIRequest(FieldTable):
    """What both routes take beside the sampling parameters."""

    thinking_field = "chat_template_kwargs.enable_thinking"

    model: Annotated[str, Field(max_length=common.MAX_NAME_CHARS)] | None = Field(
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
    guided_choice: _Choices | None = Field(None, description="the answer is one of these texts")

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def thinks(self) -> bool | None:
        """Whether to reason before the answer; None leaves it to the model."""
        return None

    @abstractmethod
    def generation_requests(self, defaults: SamplingParams) -> list[GenerationRequest]:
        """Return one request for each choice, those of the first prompt first.

        Raises:
            InvalidValueError: a value is out of its bounds, or asks for what there is not.
        """

    def given(self, prefix: str = "") -> list[Given]:
        given = super().given(prefix)
        names = {name for name, _, _ in given}
        if "repetition_penalty" in names and "repeat_last_n" not in names:
            # Whose name that is penalizes all of the context.
            given.append(("repetition_penalty", "repeat_last_n", -1))
        for part in (self.response_format, self.structured_outputs):
            given += part.given() if part is not None else []
        return given

    def sampling(self, defaults: SamplingParams) -> list[SamplingParams]:
        """Return the parameters of each choice, which has a seed of its own if one was given."""
        sampling = common.sampling_params(defaults, self.given())
        if sampling.seed is None:
            return [sampling] * self.num_choices
        return [
            replace(sampling, seed=(sampling.seed + choice) % fields.NUM_SEEDS)
            for choice in range(self.num_choices)
        ]


_DONE = b"data: [DONE]\n\n"


class OpenAIEncoder(Encoder):
    """Writes one response of several choices, as events or as one body."""

    content_type = "text/event-stream; charset=utf-8"
    heartbeat = b": ping\n\n"  # a comment, which clients skip

    id_prefix: ClassVar[str]
    body_kind: ClassVar[str]
    event_kind: ClassVar[str]
    logprob_lists: ClassVar[Sequence[str]]

    def __init__(
        self, body: OpenAIRequest, served: ServedModel, requests: Sequence[GenerationRequest]
    ) -> None:
        self._num_choices = body.num_choices
        self._with_usage = bool(body.stream_options and body.stream_options.include_usage)
        self.with_logprobs = requests[0].sampling.logprobs is not None
        self._head = {
            "id": f"{self.id_prefix}-{uuid.uuid4().hex}",
            "object": self.event_kind,
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": _system_fingerprint(served),
        }
        self._aligned = [AlignedLogprobs() for _ in requests]
        self._usages: list[Usage | None] = [None] * len(requests)

    @staticmethod
    @abstractmethod
    def logprob_fields(located: LocatedLogprob) -> dict[str, Any]:
        """Return what each list of log probabilities has for a token, by the list's name."""

    @abstractmethod
    def choice(self, answer: Answer) -> dict[str, Any]:
        """Return what a choice of a body has for its text."""

    def logprobs(self, lists: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the log probabilities of a choice, as far as they are asked for."""
        if not self.with_logprobs:
            return None
        return {name: lists.get(name, []) for name in self.logprob_lists}

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Return a response that is not streamed."""
        choices = [
            {
                **self.choice(answer),
                "index": index,
                "logprobs": self.logprobs(answer.logprobs),
                "finish_reason": answer.finish_reason,
            }
            for index, answer in enumerate(answers)
        ]
        usage = self._total_usage([answer.usage for answer in answers])
        return {**self._head, "object": self.body_kind, "choices": choices, "usage": usage}

    def event(self, choice: Mapping[str, Any] | None, usage: object = None) -> bytes:
        body = {**self._head, "choices": [] if choice is None else [choice]}
        if self._with_usage:  # then every event has the field
            body["usage"] = usage
        return b"data: " + common.dump_line(body) + b"\n\n"

    def end(self) -> bytes:
        if not self._with_usage:
            return _DONE
        return self.event(None, self._total_usage(self._usages)) + _DONE

    def fail(self, error: LLMStreamError) -> bytes:
        """End a stream with an error; `[DONE]` does not come."""
        return b"data: " + common.dump_line(error_body(error)) + b"\n\n"

    def note(self, index: int, chunk: Chunk) -> dict[str, list[Any]]:
        """Take a chunk's usage; return the log probabilities that go with its text, if any."""
        self._usages[index] = chunk.usage or self._usages[index]
        lists: dict[str, list[Any]] = {}
        if self.with_logprobs:
            for located in self._aligned[index].push(chunk.text, chunk.logprobs):
                for name, value in self.logprob_fields(located).items():
                    lists.setdefault(name, []).append(value)
        return lists

    def _total_usage(self, of_answers: Sequence[Usage | None]) -> dict[str, Any]:
        """Return what all answers cost; the prompt of several choices counts once."""
        usages = [usage for usage in of_answers if usage is not None]
        assert len(usages) == len(of_answers)  # every complete answer has one
        of_prompts = usages[:: self._num_choices]
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


def _system_fingerprint(served: ServedModel) -> str:
    """Name all that decides what a seed draws: program, model file, and the server's defaults."""
    parts = (llmstream_cli.__version__, served.name, served.created, served.sampling)
    return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


async def answer(body: OpenAIRequest, encoder_type: type[OpenAIEncoder]) -> Response:
    """Answer a request, streamed or whole."""
    served = server_context().models.find(body.model)
    defaults = served.sampling_for(body.thinks)
    requests = await common.off_the_loop(body.generation_requests, defaults)
    encoder = encoder_type(body, served, requests)
    if body.stream:
        return await stream(served, requests, encoder)
    logprob_fields = encoder.logprob_fields if encoder.with_logprobs else None
    return common.json_response(encoder.body(await collect(served, requests, logprob_fields)))


# ---- models ---------------------------------------------------------------------------------


async def _model(served: ServedModel) -> dict[str, Any]:
    info = await served.known()
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "llmstream",
        **({"capabilities": info.capabilities} if info else {}),
    }


@DIALECT.route("/v1/models", "List the models")
async def list_models() -> Response:
    data = [await _model(served) for served in server_context().models.models]
    return common.json_response({"object": "list", "data": data})


@DIALECT.route("/v1/models/{name}", "Describe a model")
async def retrieve_model(name: str) -> Response:
    return common.json_response(await _model(server_context().models.find(name)))
