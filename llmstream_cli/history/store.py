"""The conversations in their file.

A search reads all turns, which takes some 30 ms for a megabyte: an index of words would have to be
kept in step with them, and would keep the words of what was deleted.
"""

import contextlib
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from llmstream_cli.api import FinishReason, Usage
from llmstream_cli.errors import (
    HistoryError,
    InvalidValueError,
    SessionNotFoundError,
    did_you_mean,
)
from llmstream_cli.history.records import Hit, Session, Turn
from llmstream_cli.history.schema import connect, explained, transaction

_ACCENTS = re.compile("[\u0300-\u036f]+")
_NAME = re.compile(r"\w[\w.-]{0,63}")
_TITLE_CHARS = 80
_EXCERPT_CHARS = 100

_SESSIONS = """
    SELECT id, name, created, updated,
        (SELECT substr(content, 1, 1000) FROM turn
            WHERE session_id = session.id AND role = 'user' ORDER BY id LIMIT 1) AS question,
        (SELECT model FROM turn
            WHERE session_id = session.id AND model <> '' ORDER BY id DESC LIMIT 1) AS model,
        (SELECT count(*) FROM turn WHERE session_id = session.id) AS num_turns
    FROM session
"""


class History:
    """Conversations in a file, which several processes may use at once.

    Each method is a transaction: what it returns from is kept, also if the process dies a moment
    later. Any of them raises `HistoryError` where the file cannot be read or written, or is
    damaged. To be used on one thread; a context manager that closes.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._connection.row_factory = sqlite3.Row
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made or migrated as need be.

        Raises:
            HistoryError: it cannot be opened, is damaged, or is not this program's to use.
        """
        return cls(connect(path), path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- to keep ----------------------------------------------------------------------------

    def begin(self, name: str | None = None) -> Session:
        """Begin a conversation, when its first question is there to be kept.

        Raises:
            InvalidValueError: the name cannot be one, or another conversation has it.
        """
        if name is not None:
            check_name(name)
        now = _now()
        insert = "INSERT INTO session (name, created, updated) VALUES (?, ?, ?)"
        with self._writing():
            try:
                session_id = self._query(insert, name, now, now).lastrowid
            except sqlite3.IntegrityError as error:
                raise InvalidValueError(f"another conversation is called {name}") from error
            return self._sessions("WHERE id = ?", session_id)[0]

    def append(self, session_id: int, turn: Turn) -> Turn:
        """Keep a turn at the end of a conversation; return it with its id.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        row = _row(turn)
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        insert = f"INSERT INTO turn (session_id, {columns}) VALUES (?, {marks})"  # noqa: S608
        with self._writing():
            self._touch(session_id)
            kept = self._query(insert, session_id, *row.values()).lastrowid
        assert kept is not None
        return replace(turn, id=kept, content=row["content"], reasoning=row["reasoning"])

    def undo(self, session_id: int) -> None:
        """Delete the last question and all that came after it.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        last = "SELECT max(id) FROM turn WHERE session_id = ? AND role = 'user'"
        delete = f"DELETE FROM turn WHERE session_id = ? AND id >= ({last})"  # noqa: S608
        with self._writing():
            self._touch(session_id)
            self._query(delete, session_id, session_id)

    def delete(self, session_ids: Iterable[int]) -> int:
        """Delete conversations; return how many there were."""
        delete = "DELETE FROM session WHERE id = ?"
        with self._writing():
            return sum(self._query(delete, each).rowcount for each in session_ids)

    # ---- to read ----------------------------------------------------------------------------

    def latest(self) -> Session | None:
        """Return the conversation that changed last."""
        return next(iter(self.sessions(limit=1)), None)

    def find(self, name_or_id: str) -> Session:
        """Return the conversation of that number, or that name in upper or lower case.

        Raises:
            SessionNotFoundError: there is none; the message names a near miss.
        """
        number = int(name_or_id) if re.fullmatch("[0-9]{1,18}", name_or_id) else 0
        with explained(self.path):
            found = self._sessions("WHERE id = ? OR name = ?", number, _storable(name_or_id))
            if found:
                return found[0]
            names = self._query("SELECT name FROM session WHERE name IS NOT NULL")
            hint = did_you_mean(name_or_id, (row["name"] for row in names), "")
        message = f"no conversation is called {name_or_id[:100]!r}"
        raise SessionNotFoundError(f"{message}; {hint}" if hint else message)

    def sessions(
        self, *, limit: int | None = None, updated_before: datetime | None = None
    ) -> list[Session]:
        """Return conversations, those that changed last first; `limit` is the most of them."""
        before = float("inf") if updated_before is None else updated_before.timestamp()
        order = "WHERE updated < ? ORDER BY updated DESC, id DESC LIMIT ?"
        with explained(self.path):
            return self._sessions(order, before, -1 if limit is None else limit)

    def turns(self, session_id: int) -> list[Turn]:
        """Return what was said in a conversation, in order; nothing if it has been deleted."""
        select = "SELECT * FROM turn WHERE session_id = ? ORDER BY id"
        with explained(self.path):
            return [_turn(row) for row in self._query(select, session_id)]

    def search(self, text: str, *, limit: int | None = None) -> list[Hit]:
        """Return the turns that have all words of a text, the latest first; `limit` is the most.

        A word is found where one begins with it, whatever its case and accents; if nothing is
        found so, then in the midst of words too.
        """
        words = [_folded(word) for word in _storable(text).split()]
        if not words:
            return []
        with explained(self.path):
            rows = self._find_turns(words, limit)
            ids = {row["session_id"] for row in rows}
            sessions = {each: self._sessions("WHERE id = ?", each) for each in ids}
        return [
            Hit(session, _turn(row), _excerpt(row["content"], text.split()))
            for row in rows
            for session in sessions[row["session_id"]]  # none if it was deleted meanwhile
        ]

    # ---- inside -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with explained(self.path), transaction(self._connection):
            yield

    def _query(self, sql: str, *values: object) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _sessions(self, where: str, *values: object) -> list[Session]:
        return [_session(row) for row in self._query(f"{_SESSIONS} {where}", *values)]

    def _find_turns(self, words: list[str], limit: int | None) -> list[sqlite3.Row]:
        begun, inside = list[sqlite3.Row](), list[sqlite3.Row]()
        for row in self._query("SELECT * FROM turn ORDER BY id DESC"):
            content = _folded(row["content"])
            if all(word in content for word in words):
                inside.append(row)
                if all(re.search(rf"(?<![^\W_]){re.escape(word)}", content) for word in words):
                    begun.append(row)
            if len(begun) == limit:
                break
        return begun or inside[:limit]

    def _touch(self, session_id: int) -> None:
        update = "UPDATE session SET updated = ? WHERE id = ?"
        if not self._query(update, _now(), session_id).rowcount:
            raise SessionNotFoundError(f"conversation {session_id} has been deleted")


def check_name(name: str) -> None:
    """Refuse what no conversation can be called.

    Raises:
        InvalidValueError: it cannot be a name.
    """
    if not _NAME.fullmatch(name) or name.isdecimal():
        raise InvalidValueError(
            "a conversation's name has up to 64 letters, digits, '.', '-' and '_', does not begin "
            f"with '.' or '-', and is no number: {name[:100]!r}"
        )


# ---- to rows and back -----------------------------------------------------------------------


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _storable(text: str) -> str:
    """Return a text as UTF-8 can hold it; a server may send half of a character."""
    return text.encode("utf-8", "replace").decode()


def _row(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "content": _storable(turn.content),
        "reasoning": _storable(turn.reasoning),
        "model": _storable(turn.model),
        "finish_reason": turn.finish_reason,
        "usage": None if turn.usage is None else json.dumps(asdict(turn.usage)),
        "sampling": json.dumps(dict(turn.sampling)),
        "created": turn.created.timestamp(),
    }


def _turn(row: sqlite3.Row) -> Turn:
    usage, reason = row["usage"], row["finish_reason"]
    with _plausible("turn", row):
        return Turn(
            role=row["role"],
            content=row["content"],
            reasoning=row["reasoning"],
            model=row["model"],
            finish_reason=None if reason is None else FinishReason(reason),
            usage=None if usage is None else _usage(json.loads(usage)),
            sampling=json.loads(row["sampling"]),
            created=datetime.fromtimestamp(row["created"], UTC),
            id=row["id"],
        )


def _usage(kept: dict[str, Any]) -> Usage:
    """Return what an answer cost; another release may have kept more of it, or less."""
    return Usage(**{field.name: kept[field.name] for field in fields(Usage) if field.name in kept})


def _session(row: sqlite3.Row) -> Session:
    with _plausible("conversation", row):
        return Session(
            id=row["id"],
            name=row["name"],
            title=_cut(row["question"] or "", _TITLE_CHARS),
            model=row["model"] or "",
            created=datetime.fromtimestamp(row["created"], UTC),
            updated=datetime.fromtimestamp(row["updated"], UTC),
            num_turns=row["num_turns"],
        )


@contextlib.contextmanager
def _plausible(what: str, row: sqlite3.Row) -> Iterator[None]:
    """Refuse a row that somebody else has written."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise HistoryError(f"{what} {row['id']} of the history makes no sense: {error}") from error


# ---- to search and to show ------------------------------------------------------------------


def _folded(text: str) -> str:
    """Return a text without case and accents."""
    if text.isascii():
        return text.lower()
    return _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))


def _cut(text: str, size: int) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text.split())
    return line if len(line) <= size else line[: size - 1] + "…"


def _excerpt(content: str, words: list[str]) -> str:
    """Return a line of a turn, around the first of the words, if it is written there like that."""
    lower = content.lower()
    places = [place for word in words if (place := lower.find(word.lower())) >= 0]
    start = max(0, min(places, default=0) - _EXCERPT_CHARS // 3)
    return ("…" if start else "") + _cut(content[start:], _EXCERPT_CHARS)
