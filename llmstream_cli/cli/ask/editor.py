"""The user's editor, for `ask --edit` and `llmstream config edit`."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmstream_cli.cli.terminal import MAX_INPUT_BYTES, write_stderr
from llmstream_cli.errors import EditorError
from llmstream_cli.files import exists, read_text

_WINDOWS = os.name == "nt"
_DEFAULT = "notepad" if _WINDOWS else "vi"
_TERMINAL = "/dev/tty"


@contextlib.contextmanager
def edited(draft: str) -> Iterator[str]:
    """Let the user edit a draft; the block gets what became of it, and answers it.

    The text lies in a temporary file that only the user can read. It is deleted when the block is
    done. When the editor or the block fails, or the process is killed meanwhile, it stays, and the
    user is told where.

    Raises:
        EditorError: the editor cannot be run or failed, or left no text.
    """
    path = _write(draft)
    try:
        run_editor(path)
        text = read_text(path, MAX_INPUT_BYTES, error=EditorError).strip()
        if text:
            yield text
    except BaseException:
        if exists(path):
            write_stderr(f"the question is kept in {path}\n")
        raise
    path.unlink(missing_ok=True)
    if not text:
        raise EditorError("the editor left no text: nothing is asked")


def editor_command() -> list[str]:
    """Return the user's editor and its arguments: `VISUAL`, else `EDITOR`, else the system's."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _DEFAULT
    try:
        words = shlex.split(command, posix=not _WINDOWS)
    except ValueError as error:
        raise EditorError(f"cannot understand the editor {command!r}: {error}") from error
    words = [word.strip('"') for word in words] if _WINDOWS else words
    return words or [_DEFAULT]


def _write(draft: str) -> Path:
    try:
        descriptor, name = tempfile.mkstemp(prefix="llmstream-", suffix=".md")  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(draft.encode("utf-8", "replace"))
    except OSError as error:
        raise EditorError(f"cannot write a file for the editor: {error.strerror}") from error
    return Path(name)


def run_editor(path: Path) -> None:
    """Open the user's editor on a file, and wait until it is closed."""
    command = editor_command()
    try:
        with _terminal() as (stdin, stdout), _interrupts_left_to_the_editor():
            done = subprocess.run(  # noqa: S603  (the user's own choice)
                [*command, str(path)], stdin=stdin, stdout=stdout, check=False
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise EditorError(f"cannot run the editor {command[0]}: {reason}") from error
    if done.returncode:
        raise EditorError(f"the editor {command[0]} failed with exit code {done.returncode}")


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[int | None, int | None]]:
    """Find the editor's input and output; None is this process's own.

    Where these are pipes or files, it gets the terminal behind them, so that `git diff | llmstream
    ask -e > answer` works. Without one, an editor that needs none can still do its work.
    """
    if all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        yield None, None
        return
    try:
        descriptor = os.open(_TERMINAL, os.O_RDWR | getattr(os, "O_NOCTTY", 0))
    except OSError:
        yield subprocess.DEVNULL, subprocess.DEVNULL
        return
    try:
        yield descriptor, descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _interrupts_left_to_the_editor() -> Iterator[None]:
    """Let Ctrl-C be a key of the editor's, as of any; it would end this process under it."""
    # Not SIG_IGN, which the editor would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
