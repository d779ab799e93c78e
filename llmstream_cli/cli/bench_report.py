"""The report of `llmstream bench`: a table on a terminal, aligned lines in a pipe, or JSON."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import llmstream_cli
from llmstream_cli.cli.bench_figures import Figures, Prefix, Run, medians

if TYPE_CHECKING:
    from rich.console import Console

_TABLE_WIDTH = 80
_NO_DECIMALS = 100  # from this number on


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is measured; see the options of the command.

    Attributes:
        streams: numbers of concurrent streams, in order.
        prefixes: kinds of prompts, in order.
        prompt_tokens: length of a prompt, about.
        max_tokens: length of an answer at most.
        repeat: runs of each kind at each number of streams.
        seconds: that all of them may take; None is no limit.
        seed: of the prompts.
        ctx_size: tokens of a stream's context; None with a server, which has its own.
        threads: CPU threads; None with a server.
    """

    streams: tuple[int, ...]
    prefixes: tuple[Prefix, ...]
    prompt_tokens: int
    max_tokens: int
    repeat: int
    seconds: float | None
    seed: int
    ctx_size: int | None = None
    threads: int | None = None


@dataclass(slots=True)
class Report:
    """What has been measured so far.

    Attributes:
        parameters: what is to be measured.
        url: of the server; None for the engine of this program.
        model: its name; None until it is loaded or the server asked.
        runs: those that have ended, by kind of prompts and number of streams.
        complete: whether nothing is missing.
    """

    parameters: Parameters
    url: str | None
    model: str | None = None
    runs: dict[tuple[Prefix, int], list[Run]] = field(default_factory=dict)
    complete: bool = False

    @property
    def counted_pieces(self) -> bool:
        """Whether a server did not report its tokens."""
        return any(run.counted_pieces for runs in self.runs.values() for run in runs)

    @property
    def errors(self) -> list[str]:
        """Why requests failed, one line for each that did."""
        return [error for runs in self.runs.values() for run in runs for error in run.errors]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of figures.

    Attributes:
        heading: three lines: what, of which kind, in which unit.
        figure: name of the attribute of `Figures`.
        factor: from its unit to the column's.
    """

    heading: tuple[str, str, str]
    figure: str
    factor: float = 1.0


_COLUMNS = (
    _Column(("prompt", "", "tok/s"), "prompt_tokens_per_second"),
    _Column(("gen", "", "tok/s"), "generated_tokens_per_second"),
    _Column(("decode", "", "tok/s"), "decode_tokens_per_second"),
    _Column(("first", "p50", "ms"), "first_token_p50_seconds", 1e3),
    _Column(("first", "p95", "ms"), "first_token_p95_seconds", 1e3),
    _Column(("gap", "p50", "ms"), "gap_p50_seconds", 1e3),
    _Column(("gap", "p95", "ms"), "gap_p95_seconds", 1e3),
    _Column(("gap", "max", "ms"), "gap_max_seconds", 1e3),
    _Column(("wall", "", "s"), "wall_seconds"),
    _Column(("cached", "", ""), "cached_tokens"),
)


def as_json(report: Report) -> str:
    """Return one JSON object; its names have their units, and what is unknown is null."""
    content = {
        "program": "llmstream",
        "version": llmstream_cli.__version__,
        "engine": "in-process" if report.url is None else "openai",
        "url": report.url,
        "model": report.model,
        "parameters": dataclasses.asdict(report.parameters),
        "complete": report.complete,
        "tokens_counted_by": "pieces" if report.counted_pieces else "usage",
        "results": [
            {
                "prefix": prefix,
                "streams": streams,
                "errors": sum(len(run.errors) for run in runs),
                "median": _rounded(medians([run.figures for run in runs])),
                "runs": [_rounded(run.figures) | {"errors": list(run.errors)} for run in runs],
            }
            for (prefix, streams), runs in report.runs.items()
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _rounded(figures: Figures) -> dict[str, object]:
    """Return the figures to the microsecond: below that there is only noise."""
    return {
        name: value if value is None else round(value, 6)
        for name, value in dataclasses.asdict(figures).items()
    }


def as_lines(report: Report) -> str:
    """Return comments that begin with `#`, a line of headings, and a line for each result."""
    headings = ["_".join(filter(None, column.heading)) for column in _COLUMNS]
    rows = [["prefix", "streams", *headings, "errors"]]
    rows += [
        [prefix, *cells] for prefix in report.parameters.prefixes for cells in _rows(report, prefix)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"# {line}" for line in _description(report)]
    for prefix, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([prefix.ljust(widths[0]), *aligned]))
    return "\n".join(lines) + "\n"


def print_table(report: Report) -> None:
    """Print a table to the terminal."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.width = max(console.width, _TABLE_WIDTH)  # figures cut short would be wrong figures
    for line in _description(report):
        console.print(line)
    for prefix in report.parameters.prefixes:
        if rows := _rows(report, prefix):
            _print_prefix(console, prefix, rows)


def _print_prefix(console: "Console", prefix: Prefix, rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(
        title=f"{prefix} prompts",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    headings = ["streams", *("\n".join(column.heading) for column in _COLUMNS), "errors"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def _rows(report: Report, prefix: Prefix) -> list[list[str]]:
    """Return the cells of the runs with such prompts: streams, figures, errors."""
    return [
        [
            str(streams),
            *_cells(medians([run.figures for run in runs])),
            str(sum(len(run.errors) for run in runs)),
        ]
        for (run_prefix, streams), runs in report.runs.items()
        if run_prefix == prefix
    ]


def _cells(figures: Figures) -> list[str]:
    return [_number(getattr(figures, column.figure), column.factor) for column in _COLUMNS]


def _number(value: float | None, factor: float) -> str:
    """Return three digits or so; a dash for what is unknown."""
    if value is None:
        return "-"
    number = value * factor
    return f"{number:.{0 if number >= _NO_DECIMALS else 1}f}"


def _description(report: Report) -> list[str]:
    """Return what was measured, and what to know before reading the figures."""
    parameters = report.parameters
    where = f" at {report.url}" if report.url else f" with --threads {parameters.threads}"
    lines = [
        f"llmstream {llmstream_cli.__version__}: {report.model or 'no model'}{where}",
        (
            f"prompts of about {parameters.prompt_tokens} tokens, "
            f"answers of at most {parameters.max_tokens}; medians over runs: {parameters.repeat}"
        ),
    ]
    if report.counted_pieces:
        lines.append("the server reports no usage: pieces of text are counted as tokens")
    if not report.complete:
        limit = parameters.seconds
        why = f": it has {limit:g} s; --seconds 0 takes as long as it needs" if limit else ""
        lines.append(f"not complete{why}")
    return lines
