"""`llmstream models show`: what a model is, from its preset and from the head of its file."""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.cli.model_files import NamedModel, find_file, named_model
from llmstream_cli.cli.terminal import without_controls
from llmstream_cli.models.gguf_format import GGUFHeader
from llmstream_cli.models.gguf_header import read_header
from llmstream_cli.models.quants import part_names
from llmstream_cli.models.sizes import human_size

_COUNTS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_MAX_VALUE_CHARS = 200  # of what a file says of itself
_NOTABLE = 0.01  # part of the weights, below which a type is not worth a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What to show; see the options of the command for each attribute."""

    name: str
    json: bool

    def run(self) -> int:
        """Print what is known; return the exit code."""
        facts = _facts(named_model(self.name))
        if self.json:
            sys.stdout.write(json.dumps(facts, indent=2, allow_nan=False) + "\n")
        else:
            sys.stdout.write(as_lines(facts))
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileFacts:
    """What a file says of itself; each attribute is a field of `--json`."""

    architecture: str | None
    full_name: str | None
    num_parameters: int
    weight_types: Mapping[str, int]
    ctx_size: int | None
    chat_template: str | None
    licence: str | None


def _facts(model: NamedModel) -> dict[str, object]:
    """Gather the fields of `--json`; what is unknown is null."""
    path = find_file(model)
    paths = _parts(path) if path is not None else ()
    headers = [read_header(part) for part in paths]
    return {
        "name": model.name,
        "downloaded": path is not None,
        "path": os.fspath(path) if path is not None else None,
        "size_bytes": sum(header.file_size for header in headers) or _size_of_preset(model),
        **_origin(model, path),
        **_model_facts(model, _read(headers) if headers else None),
        **_preset_facts(model),
    }


def _origin(model: NamedModel, path: Path | None) -> dict[str, object]:
    """Return where the file comes from, or would: a package or a repository of the Hub."""
    preset = model.preset
    if preset is not None and preset.packaged is not None and path == preset.packaged_file():
        return {"package": preset.packaged.package, "repo": None, "file": preset.packaged.file}
    repo, file = (model.hub.repo, model.hub.file) if model.hub is not None else (None, None)
    return {"package": None, "repo": repo, "file": file}


def _parts(path: Path) -> tuple[Path, ...]:
    """Return all files of a model, of which some may not be there; the first of them must."""
    rest = part_names(path.name)[1:]
    return (path, *(part for part in map(path.with_name, rest) if part.is_file()))


def _size_of_preset(model: NamedModel) -> int | None:
    return model.preset.size_bytes if model.preset is not None else None


def _model_facts(model: NamedModel, facts: _FileFacts | None) -> dict[str, object]:
    """Return what the file says, else what the preset does."""
    preset = model.preset
    known: dict[str, object] = {
        "num_parameters": preset.num_parameters if preset is not None else None,
        "ctx_size": preset.ctx_size if preset is not None else None,
        "licence": preset.licence if preset is not None else None,
    }
    if facts is None:
        rest = dict.fromkeys(("architecture", "full_name", "weight_types", "chat_template"))
        return {**rest, **known}
    return {
        "architecture": facts.architecture,
        "full_name": facts.full_name,
        "weight_types": dict(facts.weight_types),
        "chat_template": facts.chat_template,
        "num_parameters": facts.num_parameters,
        "ctx_size": facts.ctx_size or known["ctx_size"],
        "licence": facts.licence or known["licence"],
    }


def _preset_facts(model: NamedModel) -> dict[str, object]:
    preset = model.preset
    return {
        "summary": f"{preset.title}: {preset.summary}" if preset is not None else None,
        "chat_format": preset.chat_format if preset is not None else None,
        "sampling": dict(preset.sampling) if preset is not None else {},
        "stop": list(preset.stop) if preset is not None else [],
        "memory_bytes": preset.memory_bytes() if preset is not None else None,
    }


def _read(headers: list[GGUFHeader]) -> _FileFacts:
    """Read what the first part says, and count the weights of all."""
    metadata = headers[0].metadata
    architecture = _text(headers[0], "general.architecture")
    ctx_size = metadata.get(f"{architecture}.context_length")
    sizes: dict[str, int] = {}
    num_parameters = 0
    for header in headers:
        for tensor in header.tensors.values():
            num_parameters += math.prod(tensor.shape)
            sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.size
    return _FileFacts(
        architecture=architecture,
        full_name=_text(headers[0], "general.name"),
        num_parameters=num_parameters,
        weight_types=dict(sorted(sizes.items(), key=lambda item: -item[1])),
        ctx_size=ctx_size if isinstance(ctx_size, int) else None,
        chat_template=_text(headers[0], "tokenizer.chat_template"),
        licence=_text(headers[0], "general.license"),
    )


def _text(header: GGUFHeader, key: str) -> str | None:
    value = header.metadata.get(key)
    return value if isinstance(value, str) and value else None


def as_lines(facts: Mapping[str, object]) -> str:
    """Return a line for each thing that is known."""
    preset_sampling = facts["sampling"]
    assert isinstance(preset_sampling, dict)
    sampling = ", ".join(f"{name} {value}" for name, value in preset_sampling.items())
    origin = filter(None, (facts["package"], facts["repo"], facts["file"]))
    values = {
        "name": facts["name"],
        "model": facts["full_name"],
        "summary": facts["summary"],
        "file": facts["path"] if facts["downloaded"] else _how_to_get(facts),
        "from": "/".join(map(str, origin)),
        "size": _sized(facts["size_bytes"]),
        "architecture": facts["architecture"],
        "parameters": _counted(facts["num_parameters"]),
        "quantization": _weights(facts["weight_types"]),
        "context": f"{facts['ctx_size']} tokens" if facts["ctx_size"] else None,
        "memory": _sized(facts["memory_bytes"], about=True),
        "template": _template(facts),
        "licence": facts["licence"],
        "sampling": sampling,
        "stop": ", ".join(map(repr, facts["stop"] if isinstance(facts["stop"], list) else ())),
    }
    width = max(map(len, values))
    return "".join(
        f"{name.ljust(width)}  {_one_line(str(value))}\n" for name, value in values.items() if value
    )


def _how_to_get(facts: Mapping[str, object]) -> str:
    return f"not downloaded: `llmstream models pull {facts['name']}` fetches it"


def _template(facts: Mapping[str, object]) -> str | None:
    if facts["chat_template"]:
        return "in the file (--json shows it)"
    if facts["chat_format"]:
        return f"{facts['chat_format']}, which the preset brings"
    return "none in the file: give --template or --raw" if facts["downloaded"] else None


def _weights(types: object) -> str | None:
    """Return the types of weights with the part of the model that each makes: `Q4_1 97 %`."""
    if not isinstance(types, dict) or not (whole := sum(types.values())):
        return None
    return ", ".join(
        f"{name} {100 * size / whole:.0f} %"
        for name, size in types.items()
        if size / whole >= _NOTABLE
    )


def _sized(num_bytes: object, *, about: bool = False) -> str | None:
    if not isinstance(num_bytes, int):
        return None
    return f"{'about ' if about else ''}{human_size(num_bytes)}"


def _counted(number: object) -> str | None:
    """Format a number of parameters as models are named: `7.2B`, `135M`."""
    if not isinstance(number, int):
        return None
    for factor, unit in _COUNTS:
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return str(number)


def _one_line(value: str) -> str:
    """Show what a file says of itself: anyone may have written it."""
    shown = without_controls(" ".join(value.split()))
    return shown if len(shown) <= _MAX_VALUE_CHARS else shown[:_MAX_VALUE_CHARS] + "…"
