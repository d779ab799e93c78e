"""What is asked: words of the command line, files, standard input, a text from an editor.

Each file of `--attach` is put before the question, as its name and its text in a fence of
backticks, longer than any run of them inside, so that no file can end its own.
"""

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmstream_cli.cli.ask.options import AskOptions
from llmstream_cli.cli.terminal import read_file, read_piped_input, without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, one_line
from llmstream_cli.sampling import MAX_GRAMMAR_CHARS

MAX_FILES = 64
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_ALL_BYTES = 16 * 1024 * 1024

_LANGUAGE = re.compile(r"\.([A-Za-z0-9+]{1,12})")
_MAX_FORM_BYTES = 4 * MAX_GRAMMAR_CHARS  # whose characters the core then counts
_MAX_LISTED = 8


def has_no_question(words: Sequence[str], how: AskOptions) -> bool:
    """Tell whether a person sits at a terminal and has not asked yet."""
    given = words or how.attach or how.edit
    return not given and sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def whole_question(words: Sequence[str], how: AskOptions) -> Iterator[str]:
    """Give the block the whole question, which the editor keeps if the block fails.

    Raises:
        InvalidValueError: there is none, or a part of it is too long or no text.
        EditorError: the editor failed, or left nothing.
    """
    piped = read_piped_input(strip=not how.raw)
    text = attach("\n\n".join(filter(None, (" ".join(words), piped))), how.attach or ())
    if how.edit:
        from llmstream_cli.cli.ask.editor import edited

        with edited(text) as question:
            yield question
    elif not (text if how.raw else text.strip()):
        raise InvalidValueError("there is no question; give one or pipe it to standard input")
    else:
        yield text


def attach(question: str, files: Sequence[str]) -> str:
    """Return the question with files before it; without a question, the files alone."""
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
    name = without_controls(file).replace("\n", " ")
    return f"{name}:\n\n{fence}{language[1] if language else ''}\n{text}{end}{fence}"


# ---- the form that the answer has to have ---------------------------------------------------


def read_schema(text: str) -> str:
    """Return a JSON schema: the text itself if it begins with `{`, else what is in that file."""
    if text.lstrip().startswith("{"):
        return text
    return read_file(text, _MAX_FORM_BYTES, prefix="--schema: ")


def read_grammar(text: str) -> str:
    """Return a GBNF grammar: the text itself if it has a rule in it, else what is in that file."""
    return text if "::=" in text else read_file(text, _MAX_FORM_BYTES, prefix="--grammar: ")


def check_schema(text: str) -> None:
    """Say on standard error what in a JSON schema the answer need not fulfil.

    Raises:
        SchemaError: it is none, or no answer can fulfil it.
    """
    from llmstream_cli.core.grammar import json_schema

    ignored = json_schema.read_schema(text).ignored
    if ignored:
        more = f", and {len(ignored) - _MAX_LISTED} more" if ignored[_MAX_LISTED:] else ""
        listed = ", ".join(ignored[:_MAX_LISTED])
        write_stderr(f"llmstream: --schema: not followed: {one_line(listed)}{more}\n")
