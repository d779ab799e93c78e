"""The SQLite file: how it is opened, what it looks like, how older ones become newer ones.

1. What this program did not make, or a newer one made, is refused and left as it is: nothing is
   written before `application_id` and `user_version` are known.
2. A migration is one transaction. `user_version` counts those that are done; none is ever changed.
3. Only the user may read it: the file has mode 0600 (SQLite gives its companions the same), and the
   folder, if it is made here, 0700.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from llmstream_cli.errors import HistoryError

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

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, made or migrated as need be. Transactions are begun explicitly.

    Raises:
        HistoryError: it cannot be opened, is damaged, or is not this program's to use.
    """
    with explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite and of the system into one that a person can act on."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _BUSY:
            raise HistoryError(f"{path} is in use by another program; try again") from error
        if code in _DAMAGED:
            raise HistoryError(
                f"{path} is damaged, or holds no conversations: {error}; it is left as it is, "
                "move it away to begin a new one"
            ) from error
        raise HistoryError(f"cannot use {path}: {error}") from error
    except OSError as error:
        raise HistoryError(f"cannot use {path}: {error.strerror}") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is written in the block; other writers wait for its end."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    connection.execute("PRAGMA foreign_keys = ON")
    # Readers and a writer at once; where the file system cannot, the mode stays as it is.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # enough with WAL to survive any crash
    if version == len(_MIGRATIONS):
        return
    with transaction(connection):
        # Asked again: another process may have been faster.
        for script in _MIGRATIONS[_version(connection, path) :]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return how many migrations are done in a file that is this program's to use."""
    version: int
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != _APPLICATION_ID and (num_tables or version):
        raise HistoryError(f"{path} is the database of another program; it is left as it is")
    if version > len(_MIGRATIONS):
        raise HistoryError(
            f"{path} is from a newer llmstream (version {version}, and this one knows "
            f"{len(_MIGRATIONS)}); it is left as it is"
        )
    return version
