"""Work on large files: how it tells of its progress, and that one process does it at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Progress:
    """Is told what goes on, and shows nothing of it: subclasses do."""

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        """A piece of work begins, such as `downloading model.gguf`, partly done already."""

    def advance(self, num_bytes: int) -> None:
        """So many more bytes are done."""

    def end(self) -> None:
        """The piece of work has ended, done or not."""

    def note(self, line: str) -> None:
        """Something is to be said in a line, as that another process's download is waited for."""


@contextmanager
def locked(lock_file: Path, progress: Progress, busy: str) -> Iterator[None]:
    """Be the only process in the block; a lock ends with its process.

    While another has it, that is told as what it does: `busy`, as `is downloading model.gguf`.
    """
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, mode=0o664)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.note(f"another process {busy}; waiting for it")
        lock.acquire(poll_interval=0.1)
    try:
        yield
    finally:
        lock.release()
