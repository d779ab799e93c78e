"""`--schema` and `--grammar`: what the answer has to look like, from a file or as it is written."""

from llmstream_cli.cli.terminal import read_file
from llmstream_cli.sampling import MAX_GRAMMAR_CHARS

_MAX_BYTES = 4 * MAX_GRAMMAR_CHARS  # whose characters the core then counts


def read_schema(text: str) -> str:
    """Return a JSON schema: the text itself if it begins with `{`, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return (
        text if text.lstrip().startswith("{") else read_file(text, _MAX_BYTES, prefix="--schema: ")
    )


def read_grammar(text: str) -> str:
    """Return a GBNF grammar: the text itself if it has a rule in it, else what is in that file.

    Raises:
        InvalidValueError: there is no such file, or it cannot be one.
    """
    return text if "::=" in text else read_file(text, _MAX_BYTES, prefix="--grammar: ")
