"""`--schema` and `--grammar`: what the answer has to look like, from a file or as it is written."""

from llmstream_cli.cli.terminal import complain, read_file
from llmstream_cli.errors import one_line
from llmstream_cli.sampling import MAX_GRAMMAR_CHARS

_MAX_BYTES = 4 * MAX_GRAMMAR_CHARS  # whose characters the core then counts

_MAX_LISTED = 8


def read_schema(text: str) -> str:
    """Return a JSON schema: the text itself if it begins with `{`, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return (
        text if text.lstrip().startswith("{") else read_file(text, _MAX_BYTES, prefix="--schema: ")
    )


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
        complain(f"llmstream: --schema: not followed: {one_line(listed)}{more}\n")


def read_grammar(text: str) -> str:
    """Return a GBNF grammar: the text itself if it has a rule in it, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return text if "::=" in text else read_file(text, _MAX_BYTES, prefix="--grammar: ")
