"""The conversations in their file."""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
from llmstream_cli.history.schema import connect, explained, has_words, transaction

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

    Args:
        connection: made by `schema.connect`; see `open`.
        path: the file, for errors.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._connection.row_factory = sqlite3.Row
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, made if there is none.

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

        Args:
            name: what to call it.

        Raises:
            InvalidValueError: it cannot be a name, or another conversation has it.
        """
        now = _now()
        with self._writing(), _naming(name):
            insert = "INSERT INTO session (name, created, updated) VALUES (?, ?, ?)"
            session_id = self._connection.execute(insert, (name, now, now)).lastrowid
            assert session_id is not None
            return self._session(session_id)

    def append(self, session_id: int, turn: Turn) -> Turn:
        """Keep a turn at the end of a conversation; return it with its id.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        row = _row(turn)
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        with self._writing():
            self._touch(session_id)
            insert = f"INSERT INTO turn (session_id, {columns}) VALUES (?, {marks})"  # noqa: S608
            kept = self._connection.execute(insert, (session_id, *row.values())).lastrowid
        assert kept is not None
        return replace(turn, id=kept, content=row["content"], reasoning=row["reasoning"])

    def undo(self, session_id: int) -> list[Turn]:
        """Delete the last question and all that came after it; return these turns.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        with self._writing():
            self._touch(session_id)
            last = "SELECT max(id) FROM turn WHERE session_id = ? AND role = 'user'"
            (first_id,) = self._connection.execute(last, (session_id,)).fetchone()
            undone = [] if first_id is None else self._turns(session_id, first_id)
            if undone:
                delete = "DELETE FROM turn WHERE session_id = ? AND id >= ?"
                self._connection.execute(delete, (session_id, first_id))
                self._erase_words()
        self._empty_log()
        return undone

    def rename(self, session_id: int, name: str | None) -> Session:
        """Call a conversation otherwise, or nothing.

        Raises:
            InvalidValueError: it cannot be a name, or another conversation has it.
            SessionNotFoundError: the conversation has been deleted.
        """
        with self._writing(), _naming(name):
            self._touch(session_id)
            self._connection.execute("UPDATE session SET name = ? WHERE id = ?", (name, session_id))
            return self._session(session_id)

    def delete(self, session_ids: Iterable[int]) -> int:
        """Delete conversations, and overwrite what was kept of them; return how many there were."""
        deleted = 0
        with self._writing():
            for session_id in session_ids:
                delete = "DELETE FROM turn WHERE session_id = ?"
                self._connection.execute(delete, (session_id,))
                delete = "DELETE FROM session WHERE id = ?"
                deleted += self._connection.execute(delete, (session_id,)).rowcount
            self._erase_words()
        self._empty_log()
        return deleted

    # ---- to read ----------------------------------------------------------------------------

    def latest(self) -> Session | None:
        """Return the conversation that changed last; None if there is none."""
        return next(iter(self.sessions(limit=1)), None)

    def find(self, name_or_id: str) -> Session:
        """Return the conversation of that number, or that name in upper or lower case.

        Raises:
            SessionNotFoundError: there is none; the message names a near miss.
        """
        number = int(name_or_id) if re.fullmatch("[0-9]{1,18}", name_or_id) else 0
        with explained(self.path):
            where = "WHERE id = ? OR name = ?"
            found = self._query(f"{_SESSIONS} {where}", (number, _storable(name_or_id)))
            if found:
                return _session(found[0])
            names = self._query("SELECT name FROM session WHERE name IS NOT NULL")
        message = f"no conversation is called {name_or_id[:100]!r}"
        hint = did_you_mean(name_or_id, (row["name"] for row in names), "")
        raise SessionNotFoundError(f"{message}; {hint}" if hint else message)

    def sessions(
        self, *, limit: int | None = None, updated_before: datetime | None = None
    ) -> list[Session]:
        """Return conversations, those that changed last first.

        Args:
            limit: so many at most.
            updated_before: those alone that did not change since.
        """
        before = float("inf") if updated_before is None else updated_before.timestamp()
        order = "WHERE updated < ? ORDER BY updated DESC, id DESC LIMIT ?"
        with explained(self.path):
            rows = self._query(f"{_SESSIONS} {order}", (before, -1 if limit is None else limit))
            return [_session(row) for row in rows]

    def turns(self, session_id: int) -> list[Turn]:
        """Return what was said in a conversation, in order; nothing if it has been deleted."""
        with explained(self.path):
            return self._turns(session_id)

    def search(self, text: str, *, limit: int | None = None) -> list[Hit]:
        """Return the turns that have all words of a text, the latest first.

        A word is found where one begins with it, whatever its case and accents; if nothing is
        found so, then in the midst of words too.
        """
        words = _storable(text).split()
        if not words:
            return []
        most = -1 if limit is None else limit
        with explained(self.path):
            rows: list[sqlite3.Row] = []
            if has_words(self._connection):
                query = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
                where = "id IN (SELECT rowid FROM turn_words WHERE turn_words MATCH ?)"
                rows = self._find_turns(where, [query], most)
            if not rows:
                where = " AND ".join(["content LIKE ? ESCAPE '\\'"] * len(words))
                rows = self._find_turns(where, [_pattern(word) for word in words], most)
            sessions = {row["session_id"]: None for row in rows}
            found = {number: self._session(number) for number in sessions}
        return [
            Hit(found[row["session_id"]], _turn(row), _excerpt(row["content"], words))
            for row in rows
        ]

    # ---- inside -----------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with explained(self.path), transaction(self._connection):
            yield

    def _query(self, sql: str, values: Iterable[object] = ()) -> list[sqlite3.Row]:
        return self._connection.execute(sql, tuple(values)).fetchall()

    def _session(self, session_id: int) -> Session:
        rows = self._query(f"{_SESSIONS} WHERE id = ?", (session_id,))
        if not rows:
            raise SessionNotFoundError(f"conversation {session_id} has been deleted")
        return _session(rows[0])

    def _turns(self, session_id: int, first_id: int = 0) -> list[Turn]:
        select = "SELECT * FROM turn WHERE session_id = ? AND id >= ? ORDER BY id"
        return [_turn(row) for row in self._query(select, (session_id, first_id))]

    def _find_turns(self, where: str, values: list[str], limit: int) -> list[sqlite3.Row]:
        select = f"SELECT * FROM turn WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
        return self._query(select, (*values, limit))

    def _touch(self, session_id: int) -> None:
        update = "UPDATE session SET updated = ? WHERE id = ?"
        if not self._connection.execute(update, (_now(), session_id)).rowcount:
            raise SessionNotFoundError(f"conversation {session_id} has been deleted")

    def _erase_words(self) -> None:
        """Write the index anew: it only notes of a turn that it is deleted, and keeps its words."""
        if has_words(self._connection):
            self._connection.execute("INSERT INTO turn_words (turn_words) VALUES ('optimize')")

    def _empty_log(self) -> None:
        """Write what was deleted over in the file, and not in the log beside it alone.

        Where another process reads, that is left to the last one that closes the file.
        """
        with explained(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


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


@contextmanager
def _naming(name: str | None) -> Iterator[None]:
    if name is not None:
        check_name(name)
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise InvalidValueError(f"another conversation is called {name}") from error


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _storable(text: str) -> str:
    """Return a text as UTF-8 can hold it; a server may send half of a character."""
    return text.encode("utf-8", "replace").decode()


# ---- to rows and back -----------------------------------------------------------------------


def _row(turn: Turn) -> dict[str, Any]:
    usage = None if turn.usage is None else json.dumps(asdict(turn.usage))
    return {
        "role": turn.role,
        "content": _storable(turn.content),
        "reasoning": _storable(turn.reasoning),
        "model": _storable(turn.model),
        "finish_reason": turn.finish_reason,
        "usage": usage,
        "sampling": json.dumps(dict(turn.sampling)),
        "created": turn.created.timestamp(),
    }


def _turn(row: sqlite3.Row) -> Turn:
    usage, reason = row["usage"], row["finish_reason"]
    with _making_sense("turn", row):
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
    with _making_sense("conversation", row):
        return Session(
            id=row["id"],
            name=row["name"],
            title=_cut(row["question"] or "", _TITLE_CHARS),
            model=row["model"] or "",
            created=datetime.fromtimestamp(row["created"], UTC),
            updated=datetime.fromtimestamp(row["updated"], UTC),
            num_turns=row["num_turns"],
        )


@contextmanager
def _making_sense(what: str, row: sqlite3.Row) -> Iterator[None]:
    """Refuse a row that somebody else has written."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise HistoryError(f"{what} {row['id']} of the history makes no sense: {error}") from error


# ---- to search and to show ------------------------------------------------------------------


def _pattern(word: str) -> str:
    escaped = re.sub(r"([\\%_])", r"\\\1", word)
    return f"%{escaped}%"


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
