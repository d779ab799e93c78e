"""Models as Ollama describes them: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`."""

import asyncio
import contextlib
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from quart import Blueprint, Response

from llmstream_cli.api import ModelInfo
from llmstream_cli.errors import (
    EngineNotReadyError,
    LLMStreamError,
    one_line,
)
from llmstream_cli.sampling import SamplingParams
from llmstream_cli.server.body import read_model
from llmstream_cli.server.context import ServerContext
from llmstream_cli.server.dialects.common import (
    MAX_NAME_CHARS,
    Dialect,
    json_response,
)
from llmstream_cli.server.dialects.fields import (
    FieldTable,
)
from llmstream_cli.server.pages import Operation, Reply
from llmstream_cli.server.served import ServedModel

_TAG = ":latest"
_NEVER = "9999-12-31T23:59:59Z"
_MAX_SECONDS = 1e9  # some thirty years, beyond which a model stays for good
_QUANTIZATION = re.compile(r"\b(?:[IT]?Q|BF|F|MXFP|NVFP)\d\w*(?: - (?P<size>[SML]))?")
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n")

_INTEGER = re.compile(r"-?\d{1,19}")
_FRACTION = re.compile(r"-?\d{1,19}\.\d{1,19}(?:e[+-]\d{1,2})?")

# Told in fields of their own.
_LEFT_OUT = {"general.name", "tokenizer.chat_template"}
# GGUF's own keys under `general.` that are numbers; there a model may be called "7".
_GENERAL_NUMBERS = {
    "general.alignment",
    "general.file_type",
    "general.parameter_count",
    "general.quantization_version",
}

# Clients compare it to know what they may send: log probabilities came with this version of
# Ollama, schemas as `format` before it.
API_VERSION = "0.12.11"

ModelName = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class OllamaError(BaseModel):
    """The answer of a request that failed."""

    error: str


def ollama_error(error: LLMStreamError) -> dict[str, Any]:
    """Return the JSON that tells of an error."""
    return {"error": one_line(error)}


class OllamaFields(FieldTable):
    """Base of what clients send."""

    # Ollama itself takes no number in a string.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)


class ShowRequest(OllamaFields):
    """Body of `POST /api/show`; older clients call the model `name`."""

    model: Annotated[ModelName | None, Field(validation_alias=AliasChoices("model", "name"))] = None


def tag_name(served: ServedModel) -> str:
    """Return a model's name with the tag that Ollama's clients expect behind it."""
    return served.name if ":" in served.name else served.name + _TAG


def tag(served: ServedModel, info: ModelInfo | None) -> dict[str, Any]:
    """Return a model's entry in `/api/tags`; without `info` nothing is known of it yet."""
    return {
        **_entry(served, info),
        "modified_at": _modified_at(served),
    }


def process(served: ServedModel, info: ModelInfo, now: datetime) -> dict[str, Any]:
    """Return a loaded model's entry in `/api/ps`."""
    entry = _entry(served, info)
    if served.residency is not None:
        entry["size"] = served.residency.memory_bytes or entry["size"]
    return {
        **entry,
        "expires_at": _expires_at(served, now),
        "size_vram": 0,  # what a GPU holds is not known here
        "context_length": info.ctx_size,
    }


def show(served: ServedModel, info: ModelInfo) -> dict[str, Any]:
    """Return the answer of `/api/show`."""
    parameters = _parameters(served.sampling, info)
    return {
        "license": info.metadata.get("general.license", ""),
        "modelfile": "".join(
            [
                f"FROM {tag_name(served)}\n",
                *(f"PARAMETER {line}\n" for line in parameters.splitlines()),
            ]
        ),
        "parameters": parameters,
        "template": info.chat_template or "",
        "details": _details(info),
        "model_info": _model_info(info),
        "capabilities": ["completion", *(["thinking"] if info.thinks else [])],
        "modified_at": _modified_at(served),
    }


def _entry(served: ServedModel, info: ModelInfo | None) -> dict[str, Any]:
    name = tag_name(served)
    return {
        "name": name,
        "model": name,
        "size": served.size_bytes or (info.size_bytes if info else 0),
        "digest": _digest(served),
        "details": _details(info),
    }


def _expires_at(served: ServedModel, now: datetime) -> str:
    if served.residency is None or served.residency.expires_seconds > _MAX_SECONDS:
        return _NEVER
    return rfc3339(now + timedelta(seconds=served.residency.expires_seconds))


def _digest(served: ServedModel) -> str:
    """Stand for a model's file by its name and time; its bytes would take minutes to read."""
    return hashlib.sha256(f"{served.name}\n{served.created}".encode()).hexdigest()


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
    if found is None:
        return "unknown"
    kind, _, _ = found[0].partition(" - ")
    return f"{kind}_{found['size']}" if found["size"] else kind


def _parameters(sampling: SamplingParams, info: ModelInfo) -> str:
    """Write the server's defaults as lines of a Modelfile."""
    lines = [f"num_ctx {info.ctx_size}"]
    lines += [f"{name} {getattr(sampling, name)}" for name in _PARAMETERS]
    if sampling.max_tokens is not None:
        lines.append(f"num_predict {sampling.max_tokens}")
    lines += [f"stop {json.dumps(stop)}" for stop in sampling.stop]
    return "\n".join(lines)


def _model_info(info: ModelInfo) -> dict[str, Any]:
    """Return the file's keys and values, numbers and truth values as such."""
    values = {key: _value(key, text) for key, text in info.metadata.items() if key not in _LEFT_OUT}
    return {**values, "general.parameter_count": info.num_parameters}


def _value(key: str, text: str) -> str | int | float | bool:
    if key.startswith("general.") and key not in _GENERAL_NUMBERS:
        return text
    if text in {"true", "false"}:
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text


def rfc3339(moment: datetime) -> str:
    """Write a time in UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


async def _known(served: ServedModel) -> ModelInfo | None:
    """Return the model, by what its file says where it is not loaded; it is not loaded for this."""
    info = await served.loaded()
    if info is None and served.describe is not None:
        with contextlib.suppress(LLMStreamError):  # a request to the model tells what is wrong
            return await asyncio.to_thread(served.describe)
    return info


def _routes(context: ServerContext) -> Blueprint:
    blueprint = Blueprint("ollama_models", __name__, url_prefix="/api")
    models = context.models

    @blueprint.get("/tags")
    async def tags() -> Response:
        found = [tag(served, await _known(served)) for served in models.models]
        return json_response({"models": found})

    @blueprint.get("/ps")
    async def ps() -> Response:
        infos = [(served, await served.loaded()) for served in models.models]
        now = datetime.now(UTC)
        found = [process(served, info, now) for served, info in infos if info]
        return json_response({"models": found})

    @blueprint.post("/show")
    async def show_model() -> Response:
        body = await read_model(ShowRequest, any_content_type=True)
        served = models.find(body.model)
        info = await _known(served)
        if info is None:
            status = served.engine.status
            raise EngineNotReadyError(status.reason or f"the model is {status.state}")
        return json_response(show(served, info))

    @blueprint.get("/version")
    async def version() -> Response:
        return json_response({"version": API_VERSION})

    return blueprint


DIALECT = Dialect(
    _routes,
    (
        Operation(
            "post",
            "/api/show",
            "Describe a model",
            request=ShowRequest,
            replies=(Reply(200, "The model."),),
            error=OllamaError,
        ),
        *(
            Operation("get", path, summary, replies=(Reply(200, reply),), error=OllamaError)
            for path, summary, reply in (
                ("/api/tags", "List the models", "The models."),
                ("/api/ps", "List the loaded models", "The models."),
                ("/api/version", "The version of Ollama's API", "The version."),
            )
        ),
    ),
    prefix="/api/",
    error_body=ollama_error,
)
