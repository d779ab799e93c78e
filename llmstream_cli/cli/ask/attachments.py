"""`--attach FILE`: text files that are put before the question.

Each comes as its name and its text in a fence of backticks, longer than any run of them inside, so
that no file can end its own:

    notes.txt:

    ```txt
    What stands in the file.
    ```
"""

import re
from collections.abc import Sequence
from pathlib import Path

from llmstream_cli.cli.terminal import read_file, without_controls
from llmstream_cli.errors import InvalidValueError

MAX_FILES = 64
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_ALL_BYTES = 16 * 1024 * 1024

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
        if file == "-":
            raise InvalidValueError("standard input needs no --attach: what is piped there is read")
        text = read_file(file, MAX_FILE_BYTES, prefix="--attach: ").replace("\r", "\n")
        num_bytes += len(text.encode())
        if num_bytes > MAX_ALL_BYTES:
            raise InvalidValueError(
                f"the attached files are longer than {MAX_ALL_BYTES >> 20} MiB together"
            )
        blocks.append(_block(file, text))
    return "\n\n".join(filter(None, (*blocks, question)))


def _block(file: str, text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    language = _LANGUAGE.fullmatch(Path(file).suffix)
    end = "" if not text or text.endswith("\n") else "\n"
    return f"{_shown(file)}:\n\n{fence}{language[1] if language else ''}\n{text}{end}{fence}"


def _shown(file: str) -> str:
    """Return a file's name as one line."""
    return without_controls(file).replace("\n", " ")
