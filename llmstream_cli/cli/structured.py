"""`--schema` and `--grammar`: what the answer has to look like, from a file or as it is written."""

import stat
from pathlib import Path

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.sampling import MAX_GRAMMAR_CHARS


def read_schema(text: str) -> str:
    """Return a JSON schema: the text itself if it begins with `{`, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return text if text.lstrip().startswith("{") else _read("--schema", text)


def read_grammar(text: str) -> str:
    """Return a GBNF grammar: the text itself if it has a rule in it, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return text if "::=" in text else _read("--grammar", text)


def _read(option: str, name: str) -> str:
    path = Path(name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidValueError(f"{option}: {name} is not a regular file")
        with path.open("rb") as file:
            data = file.read(4 * MAX_GRAMMAR_CHARS + 1)  # which the core then counts
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidValueError(f"{option}: there is no file {name}") from error
    except UnicodeDecodeError as error:
        raise InvalidValueError(
            f"{option}: {name} is not UTF-8 text: byte {error.start}"
        ) from error
    except (OSError, ValueError) as error:  # no permission, a name too long or with a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidValueError(f"{option}: cannot read {name}: {reason}") from error
