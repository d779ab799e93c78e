"""`llmstream models list`: which models there are, which are here, and which fit this machine."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.cli.terminal import without_controls
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.machine import Memory, free_disk, memory, memory_bandwidth
from llmstream_cli.models.fit import Fit, fit, tokens_per_second
from llmstream_cli.models.hub_cache import CachedModel, hub_folder, list_cached
from llmstream_cli.models.named_model import called_model, preset_of_hub
from llmstream_cli.models.preset import Preset
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.models.reference import HubModel
from llmstream_cli.models.resolve import find_here
from llmstream_cli.models.sizes import human_size

_EXACT_BELOW = 10  # tokens per second, from which on the estimate has no decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a preset is on this machine."""

    preset: Preset
    path: Path | None  # of its file, if that is here
    memory_bytes: int  # what a conversation with it takes, estimated
    fit: Fit
    tokens_per_second: float  # of an answer, estimated

    @property
    def about(self) -> str:
        """The speed for people."""
        speed = self.tokens_per_second
        return f"{speed:.{1 if speed < _EXACT_BELOW else 0}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """How to list; see the options of the command for each attribute."""

    json: bool

    def run(self) -> int:
        """Print the list; return the exit code."""
        machine, bandwidth = memory(), memory_bandwidth(default_threads())
        presets = [_listed(preset, machine, bandwidth) for preset in PRESETS.values()]
        others = [
            model
            for model in list_cached()
            if preset_of_hub(HubModel(model.repo, file=model.file)) is None
        ]
        if self.json:
            sys.stdout.write(_as_json(presets, others, machine, bandwidth))
        elif sys.stdout.isatty():
            _print_table(presets, others, machine)
        else:
            sys.stdout.write(_as_lines(presets, others))
        return 0


def _listed(preset: Preset, machine: Memory, bandwidth: float) -> Listed:
    needed = preset.memory_bytes()
    return Listed(
        preset=preset,
        path=find_here(called_model(preset.name)),
        memory_bytes=needed,
        fit=fit(needed, machine.total, machine.available),
        tokens_per_second=tokens_per_second(preset, bandwidth),
    )


def _as_json(
    presets: Sequence[Listed], others: Sequence[CachedModel], machine: Memory, bandwidth: float
) -> str:
    """Return one JSON object; names have their units, and what is unknown is null."""
    free = free_disk(hub_folder())
    content = {
        "machine": {
            "memory_bytes": machine.total,
            "available_memory_bytes": machine.available,
            "free_disk_bytes": free,
            "threads": default_threads(),
            "memory_bytes_per_second": round(bandwidth),
        },
        "presets": [_preset_as_json(item, free) for item in presets],
        "cached": [_cached_as_json(model) for model in others],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _preset_as_json(item: Listed, free: int) -> dict[str, object]:
    preset, is_here = item.preset, item.path is not None
    return {
        "name": preset.name,
        "title": preset.title,
        "summary": preset.summary,
        "licence": preset.licence,
        "num_parameters": preset.num_parameters,
        "size_bytes": preset.size_bytes,
        "ctx_size": preset.ctx_size,
        "repo": preset.repo,
        "file": preset.file,
        "is_candle": preset.is_candle,
        "memory_bytes": item.memory_bytes,
        "fits": item.fit.value,
        "disk_bytes": preset.disk_bytes,
        "fits_disk": is_here or preset.disk_bytes <= free,
        "about_tokens_per_second": round(item.tokens_per_second, 2),
        "cached": is_here,
        "path": os.fspath(item.path) if item.path is not None else None,
    }


def _cached_as_json(model: CachedModel) -> dict[str, object]:
    return {
        "repo": model.repo,
        "file": model.file,
        "revision": model.revision,
        "size_bytes": model.size_bytes,
        "path": os.fspath(model.paths[0]),
        "parts": len(model.paths),
        "complete": model.complete,
        "last_used": round(model.last_used),
    }


def _as_lines(presets: Sequence[Listed], others: Sequence[CachedModel]) -> str:
    """Return aligned columns of words without spaces, but for the last."""
    rows = [["name", "size_mb", "memory_mb", "fits", "about_tok/s", "here", "licence", "model"]]
    for item in presets:
        preset = item.preset
        rows.append(
            [
                preset.name,
                f"{preset.size_bytes / 1e6:.0f}",
                f"{item.memory_bytes / 1e6:.0f}",
                item.fit.value,
                item.about,
                "no" if item.path is None else "yes",
                preset.licence,
                f"{preset.title}: {preset.summary}",
            ]
        )
    lines = _aligned(rows)
    if others:
        lines.append("# also in the Hugging Face cache:")
        lines += _aligned([_other(model, unit_sep="") for model in others])
    return "\n".join(lines) + "\n"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _other(model: CachedModel, *, unit_sep: str = " ") -> list[str]:
    return [
        without_controls(f"{model.repo}/{model.file}"),
        human_size(model.size_bytes).replace(" ", unit_sep),
        "" if model.complete else "incomplete",
    ]


def _print_table(presets: Sequence[Listed], others: Sequence[CachedModel], machine: Memory) -> None:
    """Print the list to the terminal, as wide as that is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("name", "size", "fits", "about\ntok/s", "here", "licence"):
        is_number = name in {"size", "about\ntok/s"}
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    table.add_column()  # the only one that may become narrower
    for item in presets:
        table.add_row(
            item.preset.name,
            human_size(item.preset.size_bytes),
            item.fit.value,
            item.about,
            "" if item.path is None else "yes",
            item.preset.licence,
            Text(item.preset.summary, no_wrap=True, overflow="ellipsis"),
        )
    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(table)
    console.print(
        f"\n{human_size(machine.available)} of {human_size(machine.total)} memory "
        f"and {human_size(free_disk(hub_folder()))} of disk are free; speeds are estimates."
    )
    if others:
        console.print("\nalso in the Hugging Face cache")
        also = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
        also.add_column(overflow="fold")
        for model in others:
            also.add_row(*_other(model))
        console.print(also)
