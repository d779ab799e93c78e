"""A generation request in the words of OpenAI's API, as the server at the other end knows them.

OpenAI's API lacks most of what local models are sampled with. Servers add it under names of their
own, and pass over names that they do not know, so that a parameter would be lost without a word.
Here it goes out only where the server says, by the owner of its models, that it is one that takes
it; else the request is refused. What nobody asked for is not sent: the server has its own defaults.

Pure: no I/O, clock, thread, or model.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from llmstream_cli.core.api import GenerationRequest, SamplingParams
from llmstream_cli.errors import InvalidValueError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

# The parameters that a kind of server takes, and what each becomes in the body of a request.
_Dialect = Mapping[str, Callable[[Any], Mapping[str, Any]]]


def _field(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: value}


def _logit_bias(pairs: tuple[tuple[int, float], ...]) -> Mapping[str, Any]:
    return {"logit_bias": {str(token): bias for token, bias in pairs}}


def _json_schema(schema: str) -> Mapping[str, Any]:
    return {"json_schema": _parse_schema(schema)}


def _response_format(schema: str) -> Mapping[str, Any]:
    named = {"name": "answer", "schema": _parse_schema(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _parse_schema(schema: str) -> object:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"json_schema is no JSON: {error}") from error


# https://platform.openai.com/docs/api-reference/chat/create
_OPENAI: _Dialect = {
    "temperature": _field("temperature"),
    "top_p": _field("top_p"),
    "presence_penalty": _field("presence_penalty"),
    "frequency_penalty": _field("frequency_penalty"),
    "seed": _field("seed"),
    "max_tokens": _field("max_tokens"),
    "stop": _field("stop"),
    "logit_bias": _logit_bias,
    "json_schema": _response_format,
}

# https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md; this project's own
# server has its names.
_LLAMA: _Dialect = {
    **_OPENAI,
    "top_k": _field("top_k"),
    "min_p": _field("min_p"),
    "repeat_penalty": _field("repeat_penalty"),
    "repeat_last_n": _field("repeat_last_n"),
    "ignore_eos": _field("ignore_eos"),
    "grammar": _field("grammar"),
    "json_schema": _json_schema,
}

# https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html; its penalties look at all of
# the context, and -1 is its word for all tokens.
_VLLM: _Dialect = {
    **_OPENAI,
    "top_k": lambda k: {"top_k": k or -1},
    "min_p": _field("min_p"),
    "repeat_penalty": _field("repetition_penalty"),
    "ignore_eos": _field("ignore_eos"),
    "grammar": lambda grammar: {"structured_outputs": {"grammar": grammar}},
}

# https://docs.sglang.ai/basic_usage/sampling_params.html
_SGLANG: _Dialect = {**_VLLM, "grammar": _field("ebnf")}

# By what a server's models are `owned_by`.
_DIALECTS = {"llmstream": _LLAMA, "llamacpp": _LLAMA, "vllm": _VLLM, "sglang": _SGLANG}


def request_path(request: GenerationRequest) -> str:
    """Return the route that takes such a request."""
    return CHAT if request.messages else COMPLETIONS


def request_body(request: GenerationRequest, model: str, owner: str) -> dict[str, Any]:
    """Return the body of a request whose answer is streamed.

    Args:
        request: what to generate.
        model: the server's name for the model.
        owner: whom the server calls the model's owner, which tells what server it is.

    Raises:
        InvalidValueError: the server has no such parameter; the message begins with its name.
    """
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.messages:
        body["messages"] = [
            {"role": message.role, "content": message.content} for message in request.messages
        ]
        body |= _thinking(request.thinking, owner)
    else:
        body["prompt"] = request.prompt
    dialect = _DIALECTS.get(owner, _OPENAI)
    for name, value in _asked_for(request).items():
        if name not in dialect:
            of = owner if owner in _DIALECTS else "OpenAI"
            raise InvalidValueError(f"{name} cannot be asked of this server: its API is {of}'s")
        body |= dialect[name](value)
    return body


def _thinking(thinking: bool | None, owner: str) -> Mapping[str, Any]:
    """Return how a server is told whether to reason; OpenAI's own can only be told not to."""
    if thinking is None:
        return {}
    if owner in _DIALECTS:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    if thinking:
        raise InvalidValueError("thinking cannot be asked of this server: its API is OpenAI's")
    return {"reasoning_effort": "none"}


def _asked_for(request: GenerationRequest) -> dict[str, Any]:
    """Return the parameters that somebody set, without those whose value asks for nothing."""
    values = {field.name: getattr(request.sampling, field.name) for field in fields(SamplingParams)}
    return {
        name: value
        for name, value in values.items()
        if name not in request.unset and value is not None and value is not False and value != ()
    }
