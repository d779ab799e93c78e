"""Models as Ollama describes them: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, Field
from quart import Response

from llmstream_cli.api import ModelInfo
from llmstream_cli.errors import EngineNotReadyError, LLMStreamError, one_line
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.context import server_context
from llmstream_cli.server.dialects.common import MAX_NAME_CHARS, Dialect, json_response
from llmstream_cli.server.dialects.fields import FieldTable
from llmstream_cli.server.served import ServedModel

# Clients compare it to know what they may send: log probabilities came with this version of
# Ollama, schemas as `format` before it.
API_VERSION = "0.12.11"

_NEVER = "9999-12-31T23:59:59Z"
_MAX_SECONDS = 1e9  # some thirty years, beyond which a model stays for good
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n")

_QUANTIZATION = re.compile(r"\b((?:[IT]?Q|BF|F|MXFP|NVFP)\d\w*)(?: - ([SML]))?")
_JSON_SCALAR = re.compile(
    r"true|false|-?(0|[1-9]\d{0,18})|-?(0|[1-9]\d{0,18})\.\d{1,19}(e[+-]\d{1,2})?"
)
# GGUF's own keys under `general.` that are numbers; there a model may be called "7".
_GENERAL_NUMBERS = {
    "general.alignment",
    "general.file_type",
    "general.parameter_count",
    "general.quantization_version",
}


class OllamaError(BaseModel):
    """The answer of a request that failed."""

    error: str


def ollama_error(error: LLMStreamError) -> dict[str, Any]:
    return {"error": one_line(error)}


DIALECT = Dialect("/api/", ollama_error, OllamaError, any_content_type=True)


def tag_name(served: ServedModel) -> str:
    """Return a model's name with the tag that Ollama's clients expect behind it."""
    return served.name if ":" in served.name else f"{served.name}:latest"


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _entry(served: ServedModel, info: ModelInfo | None) -> dict[str, Any]:
    """Return what all lists have of a model; without `info` nothing is known of it yet."""
    # Stands for the file by its name and time; to read its bytes would take minutes.
    digest = hashlib.sha256(f"{served.name}\n{served.created}".encode()).hexdigest()
    return {
        "name": tag_name(served),
        "model": tag_name(served),
        "size": served.size_bytes or (info.size_bytes if info else 0),
        "digest": digest,
        "details": _details(info),
    }


def _modified_at(served: ServedModel) -> str:
    return rfc3339(datetime.fromtimestamp(served.created, UTC))


def _details(info: ModelInfo | None) -> dict[str, Any]:
    family = info.metadata.get("general.architecture", "") if info else ""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(info.num_parameters) if info else "",
        "quantization_level": _quantization_level(info.description) if info else "",
    }


def _parameter_size(num_parameters: int) -> str:
    """Write a count as Ollama does: `134.52M`, `7.6B`."""
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 2)):
        if num_parameters >= size:
            return f"{num_parameters / size:.{digits}f}{unit}"
    return str(num_parameters)


def _quantization_level(description: str) -> str:
    """Find `Q4_K_M` in llama.cpp's words, which are `llama 7B Q4_K - Medium`."""
    found = _QUANTIZATION.search(description)
    return "_".join(filter(None, found.groups())) if found else "unknown"


@DIALECT.route("/api/tags", "List the models")
async def tags() -> Response:
    found = [
        {**_entry(served, await served.known()), "modified_at": _modified_at(served)}
        for served in server_context().models.models
    ]
    return json_response({"models": found})


@DIALECT.route("/api/ps", "List the loaded models")
async def ps() -> Response:
    infos = [(served, await served.loaded()) for served in server_context().models.models]
    return json_response({"models": [_process(served, info) for served, info in infos if info]})


def _process(served: ServedModel, info: ModelInfo) -> dict[str, Any]:
    entry, expires_at = _entry(served, info), _NEVER
    if (residency := served.residency) is not None:
        entry["size"] = residency.memory_bytes or entry["size"]
        if residency.expires_seconds <= _MAX_SECONDS:
            expires_at = rfc3339(datetime.now(UTC) + timedelta(seconds=residency.expires_seconds))
    return {
        **entry,
        "expires_at": expires_at,
        "size_vram": 0,  # what a GPU holds is not known here
        "context_length": info.ctx_size,
    }


class ShowRequest(FieldTable):
    """Body of `POST /api/show`; older clients call the model `name`."""

    model: Annotated[
        Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None,
        Field(validation_alias=AliasChoices("model", "name")),
    ] = None


@DIALECT.route("/api/show", "Describe a model", request=ShowRequest)
async def show(body: ShowRequest) -> Response:
    served = server_context().models.find(body.model)
    info = await served.known()
    if info is None:
        status = served.engine.status
        raise EngineNotReadyError(status.reason or f"the model is {status.state}")
    parameters = _parameters(served.sampling, info)
    modelfile = [f"FROM {tag_name(served)}", *(f"PARAMETER {one}" for one in parameters)]
    return json_response(
        {
            "license": info.metadata.get("general.license", ""),
            "modelfile": "".join(f"{line}\n" for line in modelfile),
            "parameters": "\n".join(parameters),
            "template": info.chat_template or "",
            "details": _details(info),
            "model_info": _model_info(info),
            "capabilities": info.capabilities,
            "modified_at": _modified_at(served),
        }
    )


def _parameters(sampling: SamplingParams, info: ModelInfo) -> list[str]:
    """Write the server's defaults as lines of a Modelfile."""
    lines = [f"num_ctx {info.ctx_size}"]
    lines += [f"{name} {getattr(sampling, name)}" for name in _PARAMETERS]
    if sampling.max_tokens is not None:
        lines.append(f"num_predict {sampling.max_tokens}")
    return lines + [f"stop {json.dumps(stop)}" for stop in sampling.stop]


def _model_info(info: ModelInfo) -> dict[str, Any]:
    """Return the file's keys and values, but for those that have fields of their own."""
    left_out = {"general.name", "tokenizer.chat_template"}
    found = {key: _value(key, text) for key, text in info.metadata.items() if key not in left_out}
    return {**found, "general.parameter_count": info.num_parameters}


def _value(key: str, text: str) -> str | int | float | bool:
    """Return a number or a truth value where the text is one."""
    if key.startswith("general.") and key not in _GENERAL_NUMBERS:
        return text
    return json.loads(text) if _JSON_SCALAR.fullmatch(text) else text


@DIALECT.route("/api/version", "The version of Ollama's API")
async def version() -> Response:
    return json_response({"version": API_VERSION})
