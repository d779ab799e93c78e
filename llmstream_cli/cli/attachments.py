"""`--attach FILE`: text files that are put before the question.

Each comes as its name and its text in a fence of backticks, longer than any run of them inside, so
that no file can end its own:

    notes.txt:

    ```txt
    What stands in the file.
    ```
"""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path

from llmstream_cli.cli.terminal import as_utf8, without_controls
from llmstream_cli.errors import InvalidValueError

MAX_FILES = 64
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_ALL_BYTES = 16 * 1024 * 1024

# The longer mark first: the one of UTF-16 is a beginning of the one of UTF-32.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LANGUAGE = re.compile(r"\.([A-Za-z0-9+]{1,12})")


def attach(question: str, files: Sequence[str]) -> str:
    """Return the question with files before it; without a question, the files alone.

    Args:
        question: what the user asks of them.
        files: as the user gave them.

    Raises:
        InvalidValueError: there are too many, or one cannot be read, is too long, or is no text;
            the message names it.
    """
    if len(files) > MAX_FILES:
        raise InvalidValueError(f"at most {MAX_FILES} files can be attached, not {len(files)}")
    blocks, num_bytes = [], 0
    for file in files:
        data = _read(file)
        num_bytes += len(data)
        if num_bytes > MAX_ALL_BYTES:
            raise InvalidValueError(
                f"the attached files are longer than {MAX_ALL_BYTES >> 20} MiB together"
            )
        blocks.append(_block(file, _decode(data, file)))
    return "\n\n".join(filter(None, (*blocks, question)))


def _read(file: str) -> bytes:
    if file == "-":
        raise InvalidValueError("standard input needs no --attach: what is piped there is read")
    shown = _shown(file)
    try:
        path = Path(file).expanduser()
        if path.is_dir():
            raise InvalidValueError(f"cannot attach {shown}: it is a directory")
        with path.open("rb") as stream:  # a pipe will do, `<(command)` for one
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(f"cannot attach {shown}: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidValueError(
            f"cannot attach {shown}: it is longer than {MAX_FILE_BYTES >> 20} MiB"
        )
    return data


def _decode(data: bytes, file: str) -> str:
    """Return the text of a file, its lines ended as on POSIX."""
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8")
    )
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = error.start + len(mark)
        raise InvalidValueError(
            f"cannot attach {_shown(file)}: it is no text, byte {place} is not {encoding.upper()}"
        ) from error
    if "\0" in text:
        raise InvalidValueError(f"cannot attach {_shown(file)}: it is no text, but binary")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _block(file: str, text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = _LANGUAGE.fullmatch(Path(file).suffix)
    end = "" if not text or text.endswith("\n") else "\n"
    return f"{_shown(file)}:\n\n{fence}{language[1] if language else ''}\n{text}{end}{fence}"


def _shown(file: str) -> str:
    """Return a file's name as one line."""
    return without_controls(as_utf8(file, "the name of an attached file")).replace("\n", " ")
