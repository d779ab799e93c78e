"""`llmstream history`: the conversations that are kept, listed, shown, searched and deleted."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmstream_cli.cli.terminal import AnswerWriter, complain, without_controls
from llmstream_cli.config import history_path, load_config, why_no_history
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError
from llmstream_cli.files import exists
from llmstream_cli.history.export import as_json, as_markdown, session_as_json, turn_as_json
from llmstream_cli.history.records import Hit, Session
from llmstream_cli.history.store import History

_AGE = re.compile(r"([0-9]{1,4})([hdwy])")
_MAX_YEARS = 1000
_MAX_COLUMN_WIDTH = 24
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """How to list; see the options of the command for each attribute."""

    limit: int | None
    json: bool

    def run(self) -> int:
        """Print the list; return the exit code."""
        with _opened() as history:
            sessions = [] if history is None else history.sessions(limit=self.limit)
        if self.json:
            _print_json([session_as_json(session) for session in sessions])
        elif sessions:
            headings = ["number", "name", "changed", "turns", "model", "question"]
            _print_rows(headings, [_cells(session) for session in sessions])
        else:
            complain(f"no conversations are kept in {without_controls(str(_path()))}\n")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What to show; see the options of the command for each attribute."""

    name: str | None
    json: bool

    def run(self) -> int:
        """Print the conversation; return the exit code."""
        with _opened() as history:
            session = _find(history, self.name)
            turns = [] if history is None else history.turns(session.id)
        if self.json:
            _print_json(as_json(session, turns))
        else:
            _print(as_markdown(session, turns))
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search; see the options of the command for each attribute."""

    words: list[str]
    limit: int | None
    json: bool

    def run(self) -> int:
        """Print what was found; return the exit code."""
        with _opened() as history:
            hits = [] if history is None else history.search(" ".join(self.words), limit=self.limit)
        if self.json:
            _print_json([_hit_as_json(hit) for hit in hits])
        elif hits:
            headings = ["number", "name", "said", "by", "text"]
            rows = [
                [*_label(hit.session), _time(hit.turn.created), hit.turn.role, hit.excerpt]
                for hit in hits
            ]
            _print_rows(headings, rows)
        else:
            complain("nothing is found\n")
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """What to delete; see the options of the command for each attribute."""

    names: list[str]
    everything: bool
    older_than: str | None
    yes: bool

    def run(self) -> int:
        """Ask, and delete; return the exit code."""
        if sum((bool(self.names), self.everything, self.older_than is not None)) != 1:
            raise InvalidValueError("give either names of conversations, or --all, or --older-than")
        before = None if self.older_than is None else datetime.now(UTC) - parse_age(self.older_than)
        with _opened() as history:
            if self.names:
                sessions = [_find(history, name) for name in self.names]
            else:
                sessions = [] if history is None else history.sessions(updated_before=before)
            if history is None or not sessions:
                complain("there is nothing to delete\n")
                return 0
            if not self.yes and not _agreed({session.id for session in sessions}):
                complain("nothing is deleted\n")
                return 1
            num_deleted = history.delete(session.id for session in sessions)
        complain(f"{num_deleted} deleted\n")
        return 0


def parse_age(text: str) -> timedelta:
    """Return the time that `30d` or its like means; a year has 365 days.

    Raises:
        InvalidValueError: it means none.
    """
    found = _AGE.fullmatch(text)
    if found is None or int(found[1]) > _MAX_YEARS * (_HOURS["y"] // _HOURS[found[2]]):
        raise InvalidValueError("--older-than must be like 12h, 30d, 8w or 1y")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def _path() -> Path:
    config = load_config()
    path = history_path(config)
    if path is None:
        raise HistoryError(f"no conversations are kept: {why_no_history(config)}")
    return path


@contextlib.contextmanager
def _opened() -> Iterator[History | None]:
    """Open the history; None where there is none, which reading it does not change."""
    path = _path()
    if not exists(path):
        yield None
        return
    with History.open(path) as history:
        yield history


def _find(history: History | None, name: str | None) -> Session:
    session = None
    if history is not None:
        session = history.latest() if name is None else history.find(name)
    if session is None:
        raise SessionNotFoundError(f"no conversations are kept in {_path()}")
    return session


def _agreed(session_ids: set[int]) -> bool:
    """Ask whether to delete so many.

    Raises:
        InvalidValueError: there is nobody to ask.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidValueError(
            "delete asks before it deletes, and standard input is no terminal: give --yes"
        )
    what = "1 conversation" if len(session_ids) == 1 else f"{len(session_ids)} conversations"
    complain(f"Delete {what} for good? [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


# ---- to print -------------------------------------------------------------------------------


def _label(session: Session) -> tuple[str, str]:
    return str(session.id), session.name or "-"


def _cells(session: Session) -> list[str]:
    return [
        *_label(session),
        _time(session.updated),
        str(session.num_turns),
        session.model or "-",
        session.title,
    ]


def _time(time: datetime) -> str:
    """Return a time as this machine's clock showed it."""
    return time.astimezone().isoformat(timespec="minutes")[:16]


def _hit_as_json(hit: Hit) -> dict[str, object]:
    session, turn = session_as_json(hit.session), turn_as_json(hit.turn)
    return {"session": session, "turn": turn, "excerpt": hit.excerpt}


def _print_json(content: object) -> None:
    _print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _print_rows(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table to a terminal; elsewhere aligned columns, of which the last may have spaces."""
    rows = [[without_controls(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_table(headings, rows)
        return
    rows = [headings, *([cell.replace(" ", "_") for cell in row[:-1]] + row[-1:] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    _print("".join(f"{line}\n" for line in aligned))


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=_MAX_COLUMN_WIDTH)
    table.add_column(headings[-1])  # the only one that may become narrower
    for row in rows:
        table.add_row(*map(Text, row[:-1]), Text(row[-1], no_wrap=True, overflow="ellipsis"))
    Console(file=sys.stdout, highlight=False, markup=False).print(table)


def _print(text: str) -> None:
    AnswerWriter(sys.stdout).write(text)
