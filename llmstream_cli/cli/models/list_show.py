"""`llmstream models list` and `show`: facts as JSON, or as a table for people.

In JSON, names have their units, and what is unknown is null.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmstream_cli.cli.terminal import print_json, without_controls
from llmstream_cli.errors import one_line
from llmstream_cli.machine import Memory, default_threads, free_disk, memory, memory_bandwidth
from llmstream_cli.models.file_facts import read_facts
from llmstream_cli.models.hub_cache import CachedModel, hub_folder, list_cached
from llmstream_cli.models.presets import (
    PRESETS,
    NamedModel,
    Preset,
    called_model,
    named_model,
)
from llmstream_cli.models.resolve import find_here
from llmstream_cli.models.sizes import fit, human_size
from llmstream_cli.prompts.formats import FORMATS

_PIPE_COLUMNS = 160
_ROUND_FROM = 10  # tokens per second, from which on the estimate has no decimals
_MAX_VALUE_CHARS = 200  # of what a file says of itself
_MIN_WEIGHTS = 0.01  # part of the weights, below which a type is not mentioned

Rows = Iterable[Mapping[str, Any]]

# ---- list -----------------------------------------------------------------------------------


def list_models(*, json: bool) -> int:
    """Print which models there are, which are here, and which fit this machine."""
    machine, bandwidth = memory(), memory_bandwidth(default_threads())
    free = free_disk(hub_folder())
    presets = [_preset_row(preset, machine, bandwidth, free) for preset in PRESETS.values()]
    ours = {(preset.repo, preset.file) for preset in PRESETS.values()}
    cached = [_cached_row(model) for model in list_cached() if (model.repo, model.file) not in ours]
    if json:
        hardware = {
            "memory_bytes": machine.total,
            "available_memory_bytes": machine.available,
            "free_disk_bytes": free,
            "threads": default_threads(),
            "memory_bytes_per_second": round(bandwidth),
        }
        print_json({"machine": hardware, "presets": presets, "cached": cached})
    else:
        _print_tables(presets, cached, machine, free)
    return 0


def _preset_row(preset: Preset, machine: Memory, bandwidth: float, free: int) -> dict[str, Any]:
    path, needed = find_here(called_model(preset.name)), preset.memory_bytes()
    names = "name title summary licence num_parameters size_bytes ctx_size repo file is_candle"
    return {
        **{name: getattr(preset, name) for name in names.split()},
        "memory_bytes": needed,
        "fits": fit(needed, machine.total, machine.available),
        "disk_bytes": preset.disk_bytes,
        "fits_disk": path is not None or preset.disk_bytes <= free,
        "about_tokens_per_second": round(bandwidth / preset.read_bytes, 2),
        "cached": path is not None,
        "path": None if path is None else str(path),
    }


def _cached_row(model: CachedModel) -> dict[str, Any]:
    names = "repo file revision size_bytes complete"
    return {
        **{name: getattr(model, name) for name in names.split()},
        "path": str(model.paths[0]),
        "parts": len(model.paths),
        "last_used": round(model.last_used),
    }


def _print_tables(presets: Rows, cached: Rows, machine: Memory, free: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("name", "size", "fits", "tok/s", "here", "licence"):
        table.add_column(
            name, justify="right" if name in {"size", "tok/s"} else "left", no_wrap=True
        )
    table.add_column("model")  # the only one that may become narrower
    for row in presets:
        speed = row["about_tokens_per_second"]
        table.add_row(
            row["name"],
            human_size(row["size_bytes"]),
            row["fits"],
            f"{speed:.{1 if speed < _ROUND_FROM else 0}f}",
            "yes" if row["cached"] else "",
            row["licence"],
            Text(row["summary"], no_wrap=True, overflow="ellipsis"),
        )
    others = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    others.add_column(overflow="fold")
    for row in cached:
        name = without_controls(f"{row['repo']}/{row['file']}")
        others.add_row(name, human_size(row["size_bytes"]), "" if row["complete"] else "incomplete")
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    console = Console(file=sys.stdout, highlight=False, markup=False, width=width)
    console.print(table)
    console.print(
        f"\n{human_size(machine.available)} of {human_size(machine.total)} memory "
        f"and {human_size(free)} of disk are free; speeds are estimates."
    )
    if others.row_count:
        console.print("\nalso in the Hugging Face cache")
        console.print(others)


# ---- show -----------------------------------------------------------------------------------


def show_model(name: str, *, json: bool) -> int:
    """Print what a model is, from its preset and from the head of its file."""
    facts = _facts(named_model(name))
    if json:
        print_json(facts)
    else:
        sys.stdout.write(_lines(facts))
    return 0


def _facts(model: NamedModel) -> dict[str, Any]:
    path, preset = find_here(model), model.preset or Preset("", Path())
    facts = None if path is None else read_facts(path)
    package = preset.package if model.is_packaged else None
    repo, file = (None, None) if model.hub is None else (model.hub.repo, model.hub.file)
    return {
        "name": model.name,
        "downloaded": path is not None,
        "path": None if path is None else str(path),
        "size_bytes": facts.file_bytes if facts else preset.size_bytes or None,
        "package": package.name if package else None,
        "repo": None if package else repo,
        "file": package.file if package else file,
        "architecture": facts.architecture if facts else None,
        "full_name": facts.full_name if facts else None,
        "weight_types": dict(facts.weight_types) if facts else None,
        "chat_template": facts.chat_template if facts else None,
        "num_parameters": facts.num_parameters if facts else preset.num_parameters or None,
        "ctx_size": (facts and facts.ctx_size) or preset.ctx_size,
        "licence": (facts and facts.licence) or preset.licence or None,
        "summary": ": ".join(filter(None, (preset.title, preset.summary))) or None,
        "chat_format": preset.chat_format,
        "sampling": dict(preset.advice(False)),
        "thinking_sampling": dict(preset.advice(True)) if preset.thinking else {},
        "stop": list(FORMATS[preset.chat_format]) if preset.chat_format else [],
        "memory_bytes": preset.memory_bytes() if preset.size_bytes else None,
    }


def _lines(facts: Mapping[str, Any]) -> str:
    """Return a line for each thing that is known."""
    missing = f"not downloaded: `llmstream models pull {facts['name']}` fetches it"
    values = {
        "name": facts["name"],
        "model": facts["full_name"],
        "summary": facts["summary"],
        "file": facts["path"] or missing,
        "from": "/".join(filter(None, (facts["package"], facts["repo"], facts["file"]))),
        "size": facts["size_bytes"] and human_size(facts["size_bytes"]),
        "architecture": facts["architecture"],
        "parameters": _count(facts["num_parameters"] or 0),
        "quantization": _weights(facts["weight_types"] or {}),
        "context": facts["ctx_size"] and f"{facts['ctx_size']} tokens",
        "memory": facts["memory_bytes"] and f"about {human_size(facts['memory_bytes'])}",
        "template": _template(facts),
        "licence": facts["licence"],
        "sampling": _sampling(facts["sampling"]),
        "thinking": _sampling(facts["thinking_sampling"]),
        "stop": ", ".join(map(repr, facts["stop"])),
    }
    width = max(map(len, values))
    return "".join(
        f"{name.ljust(width)}  {one_line(str(value), _MAX_VALUE_CHARS)}\n"
        for name, value in values.items()
        if value
    )


def _count(number: int) -> str:
    """Write a number of parameters as models are named: `7.2B`, `135M`."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return str(number or "")


def _weights(types: Mapping[str, int]) -> str:
    """Write the types of weights with the part of the model that each makes: `Q4_1 97 %`."""
    whole = sum(types.values())
    return ", ".join(
        f"{name} {100 * size / whole:.0f} %"
        for name, size in types.items()
        if size >= whole * _MIN_WEIGHTS
    )


def _template(facts: Mapping[str, Any]) -> str:
    if facts["chat_template"]:
        return "in the file (--json shows it)"
    if facts["chat_format"]:
        return f"{facts['chat_format']}, which the preset brings"
    return "none in the file: give --template or --raw" if facts["downloaded"] else ""


def _sampling(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
