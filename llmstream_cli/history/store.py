"""Conversations in an SQLite file.

1. A file that this program did not make, or that a newer one made, is refused and left as it is:
   nothing is written before `application_id` and `user_version` are known.
2. A migration is one transaction. `user_version` counts those that are done; none is ever changed.
3. Only the user may read it: the file has mode 0600 (SQLite gives its companions the same), and the
   folder, if it is made here, 0700.
4. A search reads all turns, which takes some 30 ms for a megabyte: an index of words would have to
   be kept in step with them, and would keep the words of what was deleted.
"""

import contextlib
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
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

BUSY_SECONDS = 10.0  # until another process is done with its transaction

_APPLICATION_ID = 0x6C6C6D73  # "llms"
_MIGRATIONS = (
    """
    CREATE TABLE session (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
        name TEXT UNIQUE COLLATE NOCASE,
        created REAL NOT NULL,                 -- seconds since 1970, as all times
        updated REAL NOT NULL
    );
    CREATE TABLE turn (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id INTEGER NOT NULL REFERENCES session ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
        content TEXT NOT NULL,
        reasoning TEXT NOT NULL,
        model TEXT NOT NULL,
        finish_reason TEXT,
        usage TEXT,                            -- JSON, by the names of `Usage`
        sampling TEXT NOT NULL,                -- JSON, by the names of `SamplingParams`
        created REAL NOT NULL
    );
    CREATE INDEX turn_of_session ON turn (session_id, id);
    CREATE INDEX session_updated ON session (updated, id);
    """,
    "DROP TABLE IF EXISTS turn_words",  # an index of words that the first version had
)
_SESSIONS = """
    SELECT id, name, created, updated,
        (SELECT substr(content, 1, 1000) FROM turn
            WHERE session_id = session.id AND role = 'user' ORDER BY id LIMIT 1) AS question,
        (SELECT model FROM turn
            WHERE session_id = session.id AND model <> '' ORDER BY id DESC LIMIT 1) AS model,
        (SELECT count(*) FROM turn WHERE session_id = session.id) AS num_turns
    FROM session
"""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_NAME = re.compile(r"\w[\w.-]{0,63}")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_TITLE_CHARS, _EXCERPT_CHARS = 80, 100


class History:
    """Conversations in a file, made or migrated as need be; several processes may use it at once.

    Each method is a transaction, which no crash undoes. Any of them raises `HistoryError` where the
    file cannot be read or written, or is damaged. To be used on one thread; a context manager that
    closes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors_explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._migrate()
            except BaseException:
                self._connection.close()
                raise
        self._connection.row_factory = sqlite3.Row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # ---- to write ---------------------------------------------------------------------------

    def begin(self, name: str | None = None) -> int:
        """Begin a conversation, when its first question is there to be kept; return its id.

        Raises:
            InvalidValueError: the name cannot be one, or another conversation has it.
        """
        if name is not None:
            check_name(name)
        now = _now()
        insert = "INSERT INTO session (name, created, updated) VALUES (?, ?, ?)"
        with self._transaction():
            try:
                session_id = self._query(insert, name, now, now).lastrowid
            except sqlite3.IntegrityError as error:
                raise InvalidValueError(f"another conversation is called {name}") from error
        assert session_id is not None
        return session_id

    def append(self, session_id: int, turn: Turn) -> None:
        """Keep a turn at the end of a conversation.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        row = _row(turn)
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        insert = f"INSERT INTO turn (session_id, {columns}) VALUES (?, {marks})"  # noqa: S608
        with self._transaction():
            self._touch(session_id)
            self._query(insert, session_id, *row.values())

    def undo(self, session_id: int) -> None:
        """Delete the last question and all that came after it.

        Raises:
            SessionNotFoundError: the conversation has been deleted.
        """
        last = "SELECT max(id) FROM turn WHERE session_id = ? AND role = 'user'"
        delete = f"DELETE FROM turn WHERE session_id = ? AND id >= ({last})"  # noqa: S608
        with self._transaction():
            self._touch(session_id)
            self._query(delete, session_id, session_id)

    def delete(self, session_ids: Iterable[int]) -> int:
        """Delete conversations; return how many there were."""
        delete = "DELETE FROM session WHERE id = ?"
        with self._transaction():
            return sum(self._query(delete, each).rowcount for each in session_ids)

    # ---- to read ----------------------------------------------------------------------------

    def find(self, name_or_id: str | None = None) -> Session:
        """Return the conversation of that number, or that name in upper or lower case.

        Without either it is the one that changed last.

        Raises:
            SessionNotFoundError: there is none; the message names a near miss.
        """
        if name_or_id is None:
            found = self.sessions(limit=1)
        else:
            number = int(name_or_id) if re.fullmatch("[0-9]{1,18}", name_or_id) else 0
            found = self._sessions("WHERE id = ? OR name = ?", number, _storable(name_or_id))
        if found:
            return found[0]
        if name_or_id is None:
            raise SessionNotFoundError(f"no conversations are kept in {self.path}")
        names = (session.name for session in self.sessions() if session.name)
        hint = did_you_mean(name_or_id, names, "")
        message = f"no conversation is called {name_or_id[:100]!r}"
        raise SessionNotFoundError(f"{message}; {hint}" if hint else message)

    def sessions(
        self, *, limit: int | None = None, updated_before: datetime | None = None
    ) -> list[Session]:
        """Return conversations, those that changed last first; `limit` is the most of them."""
        before = float("inf") if updated_before is None else updated_before.timestamp()
        order = "WHERE updated < ? ORDER BY updated DESC, id DESC LIMIT ?"
        return self._sessions(order, before, -1 if limit is None else limit)

    def turns(self, session_id: int) -> list[Turn]:
        """Return what was said in a conversation, in order; nothing if it has been deleted."""
        select = "SELECT * FROM turn WHERE session_id = ? ORDER BY id"
        with self._errors_explained():
            return [_turn(row) for row in self._query(select, session_id)]

    def recent_questions(self, limit: int) -> list[str]:
        """Return the last questions of all conversations, the latest last."""
        select = "SELECT content FROM turn WHERE role = 'user' ORDER BY id DESC LIMIT ?"
        with self._errors_explained():
            return [row["content"] for row in self._query(select, limit)][::-1]

    def search(self, text: str, *, limit: int | None = None) -> list[Hit]:
        """Return the turns that have all words of a text, the latest first; `limit` is the most.

        A word is found where one begins with it, whatever its case and accents; if nothing is
        found so, then in the midst of words too.
        """
        words = [_folded(word) for word in _storable(text).split()]
        if not words:
            return []
        beginnings = [re.compile(rf"(?<![^\W_]){re.escape(word)}") for word in words]
        at_beginning, anywhere = list[sqlite3.Row](), list[sqlite3.Row]()
        sessions = {session.id: session for session in self.sessions()}
        with self._errors_explained():
            for row in self._query("SELECT * FROM turn ORDER BY id DESC"):
                content = _folded(row["content"])
                if all(word in content for word in words):
                    anywhere.append(row)
                    if all(beginning.search(content) for beginning in beginnings):
                        at_beginning.append(row)
                if len(at_beginning) == limit:
                    break
            return [
                Hit(sessions[row["session_id"]], _turn(row), _excerpt(row["content"], text.split()))
                for row in at_beginning or anywhere[:limit]
                if row["session_id"] in sessions  # else it has only just begun
            ]

    # ---- inside -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Turn the errors of SQLite and of the system into one that a person can act on."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _BUSY:
                reason = f"{self.path} is in use by another program; try again"
            elif code in _DAMAGED:
                reason = (
                    f"{self.path} is damaged, or holds no conversations: {error}; it is left as it "
                    "is, move it away to begin a new one"
                )
            else:
                reason = f"cannot use {self.path}: {error}"
            raise HistoryError(reason) from error
        except OSError as error:
            raise HistoryError(f"cannot use {self.path}: {error.strerror}") from error
        except (ValueError, TypeError, OverflowError) as error:  # somebody else has written a row
            raise HistoryError(f"{self.path} has a row that makes no sense: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what is written in the block; other writers wait for its end."""
        with self._errors_explained():
            self._query("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _query(self, sql: str, *values: object) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _sessions(self, where: str, *values: object) -> list[Session]:
        with self._errors_explained():
            return [_session(row) for row in self._query(f"{_SESSIONS} {where}", *values)]

    def _touch(self, session_id: int) -> None:
        update = "UPDATE session SET updated = ? WHERE id = ?"
        if not self._query(update, _now(), session_id).rowcount:
            raise SessionNotFoundError(f"conversation {session_id} has been deleted")

    def _migrate(self) -> None:
        version = self._version()
        self._query("PRAGMA foreign_keys = ON")
        # Readers and a writer at once; where the file system cannot, the mode stays as it is.
        self._query("PRAGMA journal_mode = WAL")
        self._query("PRAGMA synchronous = NORMAL")  # enough with WAL to survive any crash
        if version == len(_MIGRATIONS):
            return
        with self._transaction():
            # Asked again: another process may have been faster.
            for script in _MIGRATIONS[self._version() :]:
                for statement in script.split(";"):
                    self._query(statement)
            self._query(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._query(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self) -> int:
        """Return how many migrations are done in a file that is this program's to use."""
        version: int = self._query("PRAGMA user_version").fetchone()[0]
        (application_id,) = self._query("PRAGMA application_id").fetchone()
        (num_tables,) = self._query("SELECT count(*) FROM sqlite_master").fetchone()
        if application_id != _APPLICATION_ID and (num_tables or version):
            raise HistoryError(
                f"{self.path} is the database of another program; it is left as it is"
            )
        if version > len(_MIGRATIONS):
            raise HistoryError(
                f"{self.path} is from a newer llmstream (version {version}, and this one knows "
                f"{len(_MIGRATIONS)}); it is left as it is"
            )
        return version


def check_name(name: str) -> None:
    """Refuse what no conversation can be called."""
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
    plain = {name: row[name] for name in ("id", "role", "content", "reasoning", "model")}
    return Turn(
        **plain,
        finish_reason=row["finish_reason"] and FinishReason(row["finish_reason"]),
        usage=None if row["usage"] is None else _usage(json.loads(row["usage"])),
        sampling=json.loads(row["sampling"]),
        created=datetime.fromtimestamp(row["created"], UTC),
    )


def _usage(kept: dict[str, Any]) -> Usage:
    """Return what an answer cost; another release may have kept more of it, or less."""
    return Usage(**{field.name: kept[field.name] for field in fields(Usage) if field.name in kept})


def _session(row: sqlite3.Row) -> Session:
    return Session(
        id=row["id"],
        name=row["name"],
        title=_cut(row["question"] or "", _TITLE_CHARS),
        model=row["model"] or "",
        created=datetime.fromtimestamp(row["created"], UTC),
        updated=datetime.fromtimestamp(row["updated"], UTC),
        num_turns=row["num_turns"],
    )


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
