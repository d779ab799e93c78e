"""`--schema` and `--grammar`: a file, or the text itself."""

from pathlib import Path

import pytest

from llmstream_cli.cli.ask.structured import read_grammar, read_schema
from llmstream_cli.errors import InvalidValueError

SCHEMA = '{"type": "string"}'
GRAMMAR = 'root ::= "yes" | "no"'


@pytest.mark.parametrize("text", [SCHEMA, f"\n {SCHEMA}", "{"])
def test_a_schema_is_written_out(text: str) -> None:
    assert read_schema(text) == text


def test_a_grammar_is_written_out() -> None:
    assert read_grammar(GRAMMAR) == GRAMMAR


def test_either_is_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf" + SCHEMA.encode())
    assert read_schema(str(path)) == SCHEMA
    path.write_text(GRAMMAR)
    assert read_grammar(str(path)) == GRAMMAR


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff", "is not UTF-8 text: byte 0"), (b"\x7fELF\0", "is binary, not text")],
)
def test_a_file_that_cannot_be_one_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=reason) as caught:
        read_schema(str(path))
    assert str(caught.value).startswith("--schema: ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no/such", "there is no file no/such"), ("\0", "cannot read"), ("x" * 5000, "cannot read")],
)
def test_no_file_is_said_so(name: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=f"--grammar: {reason}"):
        read_grammar(name)
