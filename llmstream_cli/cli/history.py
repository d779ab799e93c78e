"""`llmstream history`: the conversations that are kept, listed, shown, searched and deleted."""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from llmstream_cli.cli import options
from llmstream_cli.cli.config.file import history_path, load_config, why_no_history
from llmstream_cli.cli.terminal import AnswerWriter, print_json, without_controls, write_stderr
from llmstream_cli.errors import HistoryError, InvalidValueError, SessionNotFoundError
from llmstream_cli.files import exists

if TYPE_CHECKING:
    from pathlib import Path

    from llmstream_cli.history.records import Hit, Session
    from llmstream_cli.history.store import History

_AGE = re.compile(r"([0-9]{1,4})([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}
_MAX_YEARS = 1000

app = typer.Typer()

Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", help="So many at most.", show_default="all", min=1),
]


@app.callback(
    invoke_without_command=True,
    help="Conversations that are kept on this machine: read, find and delete them.",
)
def top(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command("list", help="List the conversations, those that changed last first.")
def list_sessions(limit: Limit = None, json: options.Json = False) -> None:
    with _opened() as history:
        sessions = [] if history is None else history.sessions(limit=limit)
    rows = [
        [
            *_number_and_name(session),
            _time(session.updated),
            str(session.num_turns),
            session.model or "-",
            session.title,
        ]
        for session in sessions
    ]
    headings = ["number", "name", "changed", "turns", "model", "question"]
    nothing = f"no conversations are kept in {without_controls(str(_path()))}"
    _print(headings, rows, sessions, nothing, json=json)


@app.command(help="Print a conversation as markdown.")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Its name or number.",
            show_default="the one that changed last",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    from llmstream_cli.history.records import as_json, as_markdown

    with _opened() as history:
        session = _find(history, name)
        turns = [] if history is None else history.turns(session.id)
    if json:
        print_json({**as_json(session), "turns": [as_json(turn) for turn in turns]})
    else:
        AnswerWriter(sys.stdout).write(as_markdown(session, turns))


@app.command(help="Find the questions and answers that have all the words, the latest first.")
def search(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORD...", help="Words or their beginnings, in any case.", show_default=False
        ),
    ],
    limit: Limit = None,
    json: options.Json = False,
) -> None:
    with _opened() as history:
        hits = [] if history is None else history.search(" ".join(words), limit=limit)
    rows = [
        [*_number_and_name(hit.session), _time(hit.turn.created), hit.turn.role, hit.excerpt]
        for hit in hits
    ]
    headings = ["number", "name", "said", "by", "text"]
    _print(headings, rows, hits, "nothing is found", json=json)


@app.command(help="Delete conversations, for good.\n\nIt tells how many, and asks.")
def delete(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names or numbers.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Those that have not changed for so long: 12h, 30d, 8w, 1y.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    if sum((bool(names), everything, older_than is not None)) != 1:
        raise InvalidValueError("give either names of conversations, or --all, or --older-than")
    before = None if older_than is None else datetime.now(UTC) - parse_age(older_than)
    with _opened() as history:
        if names:
            sessions = [_find(history, name) for name in names]
        else:
            sessions = [] if history is None else history.sessions(updated_before=before)
        if history is None or not sessions:
            write_stderr("there is nothing to delete\n")
            return 0
        ids = {session.id for session in sessions}
        if not yes and not _agreed(len(ids)):
            write_stderr("nothing is deleted\n")
            return 1
        write_stderr(f"{history.delete(ids)} deleted\n")
    return 0


def parse_age(text: str) -> timedelta:
    """Return the time that `30d` or its like means; a year has 365 days."""
    found = _AGE.fullmatch(text)
    if found is None or int(found[1]) > _MAX_YEARS * (_HOURS["y"] // _HOURS[found[2]]):
        raise InvalidValueError("--older-than must be like 12h, 30d, 8w or 1y")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def _path() -> "Path":
    config = load_config()
    path = history_path(config)
    if path is None:
        raise HistoryError(f"no conversations are kept: {why_no_history(config)}")
    return path


@contextlib.contextmanager
def _opened() -> "Iterator[History | None]":
    """Open the history; None where there is none: to read it does not make one."""
    path = _path()
    if not exists(path):
        yield None
        return
    from llmstream_cli.history.store import History

    with History(path) as history:
        yield history


def _find(history: "History | None", name: str | None) -> "Session":
    if history is None:
        raise SessionNotFoundError(f"no conversations are kept in {_path()}")
    return history.find(name)


def _agreed(number: int) -> bool:
    """Ask whether to delete so many."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise InvalidValueError(
            "delete asks before it deletes, and standard input is no terminal: give --yes"
        )
    write_stderr(f"Delete {number} conversation{'s' if number > 1 else ''} for good? [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


# ---- to print -------------------------------------------------------------------------------


def _number_and_name(session: "Session") -> list[str]:
    return [str(session.id), session.name or "-"]


def _time(time: datetime) -> str:
    """Return a time as this machine's clock showed it."""
    return time.astimezone().isoformat(timespec="minutes")[:16]


def _print(
    headings: list[str],
    rows: list[list[str]],
    records: "Sequence[Session | Hit]",
    nothing: str,
    *,
    json: bool,
) -> None:
    from llmstream_cli.cli.terminal import print_table
    from llmstream_cli.history.records import as_json

    if json:
        print_json([as_json(record) for record in records])
    elif rows:
        print_table(headings, rows)
    else:
        write_stderr(f"{nothing}\n")
