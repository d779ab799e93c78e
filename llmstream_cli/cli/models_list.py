"""`llmstream models list`: which models there are, which are here, and which suits this machine."""

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmstream_cli.cli import speed as machine_speed
from llmstream_cli.cli.terminal import complain, without_controls
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.machine import Memory, free_disk, memory
from llmstream_cli.models.fit import Assessment, Speed, assess, recommend
from llmstream_cli.models.hub_cache import CachedModel, hub_folder, list_cached
from llmstream_cli.models.named_model import preset_model
from llmstream_cli.models.preset import CandleFile, Preset
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.models.resolve import find_here
from llmstream_cli.models.sizes import human_size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MEGABYTE = 1e6
_LARGEST_PROBE = 2_000_000_000  # bytes; a larger model takes too long to measure
_EXACT_BELOW = 10  # tokens per second, from which on the estimate has no decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What there is.

    Attributes:
        memory: of this machine.
        free_disk: bytes, where downloads go.
        speed: of this machine.
        presets: what each is here, in the order of the table.
        paths: the files of those that are here, by name.
        recommended: the one that suits this machine best, if any does.
        others: models in the Hugging Face cache that are no presets.
    """

    memory: Memory
    free_disk: int
    speed: Speed
    presets: tuple[Assessment, ...]
    paths: dict[str, Path]
    recommended: Preset | None
    others: tuple[CachedModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """How to list; see the options of the command for each attribute."""

    json: bool
    measure: bool

    def run(self) -> int:
        """Print the list; return the exit code."""
        survey = _survey(measure=self.measure)
        if self.json:
            sys.stdout.write(as_json(survey))
        elif sys.stdout.isatty():
            print_table(survey)
        else:
            sys.stdout.write(as_lines(survey))
        return 0


def _survey(*, measure: bool) -> Survey:
    paths = {}
    for preset in PRESETS.values():
        path = find_here(preset_model(preset))
        if path is not None:
            paths[preset.name] = path
    found, free, speed = memory(), free_disk(hub_folder()), _speed(paths, measure=measure)
    presets = tuple(
        assess(
            preset,
            total_memory=found.total,
            available_memory=found.available,
            free_disk=free,
            speed=speed,
            present=preset.name in paths,
        )
        for preset in PRESETS.values()
    )
    sources = {(preset.source.repo, preset.source.file) for preset in PRESETS.values()}
    return Survey(
        memory=found,
        free_disk=free,
        speed=speed,
        presets=presets,
        paths=paths,
        recommended=recommend(presets),
        others=tuple(model for model in list_cached() if (model.repo, model.file) not in sources),
    )


def _speed(paths: dict[str, Path], *, measure: bool) -> Speed:
    remembered = None if measure else machine_speed.remembered_speed()
    if remembered is not None:
        return remembered
    if sys.stderr is not None and sys.stderr.isatty():
        busy = "; it is busy, so this will be rough" if machine_speed.is_busy() else ""
        complain(f"measuring how fast this machine is{busy}\n")
    probes = [
        machine_speed.Probe(PRESETS[name], path)
        for name, path in paths.items()
        if PRESETS[name].size_bytes <= _LARGEST_PROBE
    ]
    return machine_speed.measure_speed(
        min(probes, key=lambda probe: probe.preset.size_bytes, default=None)
    )


def as_json(survey: Survey) -> str:
    """Return one JSON object; names have their units, and what is unknown is null."""
    content = {
        "machine": {
            "memory_bytes": survey.memory.total,
            "available_memory_bytes": survey.memory.available,
            "free_disk_bytes": survey.free_disk,
            "threads": default_threads(),
            "speed": dataclasses.asdict(survey.speed),
        },
        "recommended": survey.recommended.name if survey.recommended is not None else None,
        "presets": [_preset_as_json(item, survey) for item in survey.presets],
        "cached": [_cached_as_json(model) for model in survey.others],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _preset_as_json(item: Assessment, survey: Survey) -> dict[str, object]:
    preset, path = item.preset, survey.paths.get(item.preset.name)
    speed = item.tokens_per_second
    return {
        "name": preset.name,
        "title": preset.title,
        "summary": preset.summary,
        "licence": preset.licence,
        "num_parameters": preset.num_parameters,
        "size_bytes": preset.size_bytes,
        "ctx_size": preset.ctx_size,
        "quality": preset.quality,
        "repo": preset.source.repo,
        "file": preset.source.file,
        "revision": preset.source.revision,
        "is_candle": isinstance(preset.source, CandleFile),
        "memory_bytes": item.memory_bytes,
        "fits": item.fit.value,
        "disk_bytes": item.disk_bytes,
        "fits_disk": item.fits_disk,
        "about_tokens_per_second": round(speed, 2) if speed is not None else None,
        "cached": item.present,
        "path": os.fspath(path) if path is not None else None,
        "recommended": preset is survey.recommended,
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


def as_lines(survey: Survey) -> str:
    """Return aligned columns of words without spaces, but for the last."""
    rows = [["name", "size_mb", "memory_mb", "fits", "about_tok/s", "here", "licence", "model"]]
    for item in survey.presets:
        preset = item.preset
        rows.append(
            [
                preset.name,
                f"{preset.size_bytes / _MEGABYTE:.0f}",
                f"{item.memory_bytes / _MEGABYTE:.0f}",
                item.fit.value,
                _about(item.tokens_per_second),
                _yes(item.present),
                preset.licence,
                f"{preset.title}: {preset.summary}",
            ]
        )
    lines = _aligned(rows)
    if survey.recommended is not None:
        lines.append(f"# recommended: {survey.recommended.name}")
    if survey.others:
        lines.append("# also in the Hugging Face cache:")
        lines += _aligned([[_name_of(model), *_details_of(model)] for model in survey.others])
    return "\n".join(lines) + "\n"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def print_table(survey: Survey) -> None:
    """Print the list to the terminal, as wide as that is."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(_preset_table(survey))
    console.print()
    if survey.recommended is not None:
        _print_recommendation(console, survey.recommended, survey)
    console.print(
        f"{human_size(survey.memory.available)} of {human_size(survey.memory.total)} memory "
        f"and {human_size(survey.free_disk)} of disk are free; speeds are estimates."
    )
    if survey.others:
        console.print()
        console.print(_other_table(survey.others))


def _preset_table(survey: Survey) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("fits", no_wrap=True)
    table.add_column("about\ntok/s", justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column()  # the only one that may become narrower
    for item in survey.presets:
        preset = item.preset
        table.add_row(
            preset.name,
            human_size(preset.size_bytes),
            item.fit.value,
            _about(item.tokens_per_second),
            "yes" if item.present else "",
            preset.licence,
            Text(preset.summary, no_wrap=True, overflow="ellipsis"),
            style="bold" if preset is survey.recommended else None,
        )
    return table


def _print_recommendation(console: "Console", preset: Preset, survey: Survey) -> None:
    if preset.name in survey.paths:
        way = f'`llmstream ask -f {preset.name} "…"`'
    else:
        way = f"`llmstream models pull {preset.name}`"
    console.print(f"Recommended for this machine: {preset.name}, {way}")


def _other_table(others: tuple[CachedModel, ...]) -> "Table":
    from rich.table import Table

    table = Table(
        title="also in the Hugging Face cache",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_header=False,
    )
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    for model in others:
        table.add_row(_name_of(model), *_details_of(model, sep=" "))
    return table


def _name_of(model: CachedModel) -> str:
    return without_controls(f"{model.repo}/{model.file}")


def _details_of(model: CachedModel, *, sep: str = "") -> tuple[str, str]:
    size = human_size(model.size_bytes).replace(" ", sep)
    return size, "" if model.complete else "incomplete"


def _about(tokens_per_second: float | None) -> str:
    if tokens_per_second is None:
        return "-"
    return f"{tokens_per_second:.{1 if tokens_per_second < _EXACT_BELOW else 0}f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
