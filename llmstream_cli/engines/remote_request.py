"""A generation request in the words of OpenAI's API, as the server at the other end knows them.

OpenAI's API lacks most of what local models are sampled with. Servers add it under names of their
own, and pass over names that they do not know, so that a parameter would be lost without a word.
Here it goes out only where the server says, by the owner of its models, that it is one that takes
it; else the request is refused. What nobody asked for is not sent: the server has its own defaults.

Pure: no I/O, clock, thread, or model.
"""

import json
from collections.abc import Mapping
from typing import Any

from llmstream_cli.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.sampling import PARAMETERS, Parameter

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

# APIs by what a server's models are `owned_by`; whatever else answers speaks OpenAI's.
# https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
# https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html
# https://docs.sglang.ai/basic_usage/sampling_params.html
_APIS = {"llmstream": "llamacpp", "llamacpp": "llamacpp", "vllm": "vllm", "sglang": "sglang"}


def _written(owner: str, parameter: Parameter, value: Any) -> dict[str, Any]:
    """Return a parameter as a part of a request's body."""
    api = _APIS.get(owner, "openai")
    name = parameter.name_in(api)
    if name is None:
        of = owner if owner in _APIS else "OpenAI"
        raise InvalidValueError(
            f"{parameter.name} cannot be asked of this server: its API is {of}'s", parameter.name
        )
    if parameter.name == "json_schema":
        value = _parse_schema(value)
    if parameter.name == "logit_bias":
        value = {str(token): bias for token, bias in value}
    if parameter.name == "top_k" and api in {"vllm", "sglang"}:
        value = value or -1  # their word for all tokens
    if name == "response_format":
        value = {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}
    outer, _, inner = name.partition(".")
    return {outer: {inner: value} if inner else value}


def _parse_schema(schema: str) -> object:
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"json_schema is no JSON: {error}", "json_schema") from error


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
        InvalidValueError: the server has no such parameter.
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
    for name, value in _asked_for(request).items():
        body |= _written(owner, PARAMETERS[name], value)
    return body


def _thinking(thinking: bool | None, owner: str) -> Mapping[str, Any]:
    """Return how a server is told whether to reason; OpenAI's own can only be told not to."""
    if thinking is None:
        return {}
    if owner in _APIS:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    if thinking:
        raise InvalidValueError(
            "thinking cannot be asked of this server: its API is OpenAI's", "thinking"
        )
    return {"reasoning_effort": "none"}


def _asked_for(request: GenerationRequest) -> dict[str, Any]:
    """Return the parameters that somebody set, without those whose value asks for nothing."""
    values = {name: getattr(request.sampling, name) for name in PARAMETERS}
    return {
        name: value
        for name, value in values.items()
        if name not in request.unset and value is not None and value is not False and value != ()
    }
