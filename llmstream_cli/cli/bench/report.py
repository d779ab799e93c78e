"""The report of `llmstream bench`: a table, or JSON."""

import dataclasses
import json
from dataclasses import dataclass, field

import llmstream_cli
from llmstream_cli.cli.bench.figures import Figures, Prefix, Run, medians
from llmstream_cli.cli.terminal import aligned

_NO_DECIMALS = 100  # from this number on

# Heading (what, of which kind, in which unit), figure, and the factor from its unit to the column's
_COLUMNS = (
    (("prompt", "", "tok/s"), "prompt_tokens_per_second", 1.0),
    (("gen", "", "tok/s"), "generated_tokens_per_second", 1.0),
    (("decode", "", "tok/s"), "decode_tokens_per_second", 1.0),
    (("first", "p50", "ms"), "first_token_p50_seconds", 1e3),
    (("first", "p95", "ms"), "first_token_p95_seconds", 1e3),
    (("gap", "p50", "ms"), "gap_p50_seconds", 1e3),
    (("gap", "p95", "ms"), "gap_p95_seconds", 1e3),
    (("gap", "max", "ms"), "gap_max_seconds", 1e3),
    (("wall", "", "s"), "wall_seconds", 1.0),
    (("cached", "", ""), "cached_tokens", 1.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What is measured; see the options of the command."""

    streams: tuple[int, ...]
    prefixes: tuple[Prefix, ...]
    prompt_tokens: int
    max_tokens: int
    repeat: int
    seconds: float | None  # that all runs may take; None is no limit
    seed: int
    ctx_size: int | None = None  # tokens of a stream's context; None with a server, as `threads`
    threads: int | None = None


@dataclass(slots=True)
class Report:
    """What has been measured so far."""

    parameters: Parameters
    url: str | None  # of the server; None for the engine of this program
    model: str | None = None  # its name; None until it is loaded or the server asked
    runs: dict[tuple[Prefix, int], list[Run]] = field(default_factory=dict)  # by prefix and streams
    complete: bool = False

    @property
    def all_runs(self) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs]

    @property
    def counted_pieces(self) -> bool:
        """Whether a server did not report its tokens."""
        return any(run.counted_pieces for run in self.all_runs)

    @property
    def errors(self) -> list[str]:
        """Why requests failed, one line for each that did."""
        return [error for run in self.all_runs for error in run.errors]


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


def as_text(report: Report) -> str:
    """Return what was measured, and a table for each kind of prompts; it fits into 80 columns."""
    lines = [*_description(report), ""]
    headings = [list(cells) for cells in zip(*(heading for heading, *_ in _COLUMNS), strict=True)]
    for prefix in report.parameters.prefixes:
        rows = [
            [str(streams), *_cells(runs), str(sum(len(run.errors) for run in runs))]
            for (run_prefix, streams), runs in report.runs.items()
            if run_prefix == prefix
        ]
        if rows:
            table = [["streams", *headings[0], "errors"], *(["", *h, ""] for h in headings[1:])]
            lines += [f"{prefix} prompts", aligned([*table, *rows], gap=1, right=True)]
    return "\n".join(lines)


def _cells(runs: list[Run]) -> list[str]:
    """Return the medians with three digits or so; a dash for what is unknown."""
    figures = medians([run.figures for run in runs])
    cells = []
    for _, name, factor in _COLUMNS:
        value = getattr(figures, name)
        number = 0.0 if value is None else value * factor
        text = f"{number:.{0 if number >= _NO_DECIMALS else 1}f}"
        cells.append("-" if value is None else text)
    return cells


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
