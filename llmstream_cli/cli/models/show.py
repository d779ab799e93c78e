"""`llmstream models show`: what a model is, from its preset and from the head of its file."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from llmstream_cli.errors import one_line
from llmstream_cli.models.file_facts import FileFacts, read_facts
from llmstream_cli.models.named_model import NamedModel, named_model
from llmstream_cli.models.resolve import find_here
from llmstream_cli.models.sizes import human_size
from llmstream_cli.prompts.formats import FORMATS

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


def _facts(model: NamedModel) -> dict[str, object]:
    """Gather the fields of `--json`; what is unknown is null."""
    path = find_here(model)
    facts = read_facts(path) if path is not None else None
    return {
        "name": model.name,
        "downloaded": path is not None,
        "path": os.fspath(path) if path is not None else None,
        "size_bytes": facts.file_bytes if facts is not None else _size_of_preset(model),
        **_origin(model),
        **_model_facts(model, facts),
        **_preset_facts(model),
    }


def _origin(model: NamedModel) -> dict[str, object]:
    """Return where the file comes from, or would: a package or a repository of the Hub."""
    package = model.preset.package if model.preset is not None else None
    if package is not None and model.is_packaged:
        return {"package": package.name, "repo": None, "file": package.file}
    repo, file = (model.hub.repo, model.hub.file) if model.hub is not None else (None, None)
    return {"package": None, "repo": repo, "file": file}


def _size_of_preset(model: NamedModel) -> int | None:
    return (model.preset.size_bytes or None) if model.preset is not None else None


def _model_facts(model: NamedModel, facts: FileFacts | None) -> dict[str, object]:
    """Return what the file says, else what the preset does."""
    preset = model.preset
    known: dict[str, object] = {
        "num_parameters": (preset.num_parameters or None) if preset is not None else None,
        "ctx_size": preset.ctx_size if preset is not None else None,
        "licence": (preset.licence or None) if preset is not None else None,
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
    chat_format = preset.chat_format if preset is not None else None
    return {
        "summary": ": ".join(filter(None, (preset.title, preset.summary))) if preset else None,
        "chat_format": chat_format,
        "sampling": dict(preset.advice(False)) if preset is not None else {},
        "thinking_sampling": dict(preset.advice(True)) if preset and preset.thinking else {},
        "stop": list(FORMATS[chat_format].stop) if chat_format is not None else [],
        "memory_bytes": preset.memory_bytes() if preset and preset.size_bytes else None,
    }


def as_lines(facts: Mapping[str, object]) -> str:
    """Return a line for each thing that is known."""
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
        "sampling": _sampling(facts["sampling"]),
        "thinking": _sampling(facts["thinking_sampling"]),
        "stop": ", ".join(map(repr, facts["stop"] if isinstance(facts["stop"], list) else ())),
    }
    width = max(map(len, values))
    return "".join(
        f"{name.ljust(width)}  {one_line(str(value), _MAX_VALUE_CHARS)}\n"
        for name, value in values.items()
        if value
    )


def _sampling(values: object) -> str:
    assert isinstance(values, dict)
    return ", ".join(f"{name} {value}" for name, value in values.items())


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
