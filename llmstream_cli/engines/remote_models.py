"""The models that another server lists, and which of them is meant.

https://platform.openai.com/docs/api-reference/models/list, and what llama-server (`meta`), vLLM and
SGLang (`max_model_len`) add to it.

Pure: no I/O, clock, thread, or model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmstream_cli.api import ModelInfo
from llmstream_cli.errors import (
    InvalidValueError,
    ModelNotFoundError,
    UpstreamError,
    did_you_mean,
)

_OURS = "llmstream"
_MAX_MODELS_SHOWN = 5
_MAX_COUNT = 2**53


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of another server."""

    name: str  # what requests call it
    owner: str  # whom the server calls its owner, which tells what server it is; "" if it does not
    info: ModelInfo  # what else the server tells of it


def parse_models(body: object) -> list[RemoteModel]:
    """Return the models of a list as the server sent it, in its order; none of what is no list."""
    match body:
        case {"data": [*entries]}:
            return [model for entry in entries if (model := parse_model(entry)) is not None]
        case _:
            return []


def parse_model(entry: object) -> RemoteModel | None:
    """Return the model that a list or a route of its own describes; None of what is none."""
    match entry:
        case {"id": str(name), **more} if name:
            owner = more.get("owned_by")
            owner = owner if isinstance(owner, str) else ""
            return RemoteModel(name, owner, _info(name, owner, more))
        case _:
            return None


def unlisted_model(name: str) -> RemoteModel:
    """Return the model of a server that has no list."""
    return RemoteModel(name, "", _info(name, "", {}))


def only_model(models: Sequence[RemoteModel]) -> RemoteModel:
    """Return the model that is meant where none was named.

    It is the only one. This project's own server lists its default first.

    Raises:
        UpstreamError: there is none.
        InvalidValueError: there are several.
    """
    if not models:
        raise UpstreamError("the server does not say what model it has; name it")
    if len(models) > 1 and models[0].owner != _OURS:
        raise InvalidValueError(f"the server has several models; name one: {_names(models)}")
    return models[0]


def unknown_model(name: str, models: Sequence[RemoteModel]) -> ModelNotFoundError:
    """Return the error that there is no such model, with a near miss or what there is."""
    hint = did_you_mean(name, (model.name for model in models), f"it has {_names(models)}")
    return ModelNotFoundError(f"the server has no model {name!r}; {hint}")


def _names(models: Sequence[RemoteModel]) -> str:
    names = [model.name for model in models[:_MAX_MODELS_SHOWN]]
    return ", ".join([*names, "…"] if len(models) > len(names) else names)


def _info(name: str, owner: str, entry: Mapping[Any, Any]) -> ModelInfo:
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    return ModelInfo(
        name=name,
        description=f"a model of a server ({owner})" if owner else "a model of a server",
        ctx_size=_count(entry.get("max_model_len")) or _count(meta.get("n_ctx")),
        load_seconds=0.0,
        cpu_features={},
        ctx_train=_count(meta.get("n_ctx_train")),
        vocab_size=_count(meta.get("n_vocab")),
        num_parameters=_count(meta.get("n_params")),
        size_bytes=_count(meta.get("size")),
    )


def _count(value: object) -> int:
    """Return a number as it was sent, if it can be one of what is counted; else 0."""
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else 0
