"""What an answer is written with, by what standard output is."""

import subprocess
import sys

import pytest

from llmstream_cli.cli.markdown import answer_writer
from llmstream_cli.cli.markdown.writer import MarkdownWriter
from llmstream_cli.cli.terminal import AnswerWriter
from llmstream_cli.errors import OutputError
from tests.cli.test_terminal import Stream


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def answered(text: str, **options: bool) -> bytes:
    stream = Stream(tty=True)
    stream.fileno = lambda: -1  # type: ignore[method-assign]
    writer = answer_writer(stream, **options)
    writer.write(text)
    writer.end()
    return stream.bytes.getvalue()


def test_a_terminal_gets_it_rendered() -> None:
    assert answered("**yes**\n") == b"\x1b[1myes\x1b[m\r\n"


def test_raw_is_as_generated() -> None:
    assert answered("**yes**\n", raw=True) == b"**yes**\n"


def test_a_pipe_gets_it_as_generated() -> None:
    assert isinstance(answer_writer(Stream(tty=False)), AnswerWriter)


@pytest.mark.parametrize("term", ["dumb", "unknown", None])
def test_a_terminal_that_understands_nothing_gets_it_as_generated(
    monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    assert answered("**yes**\n") == b"**yes**\n"


@pytest.mark.parametrize(("value", "code"), [("1", b"`x`\r\n"), ("", b"\x1b[36mx\x1b[m\r\n")])
def test_no_color_turns_colours_off_unless_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, value: str, code: bytes
) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    assert answered("`x`\n") == code


def test_a_locale_without_unicode_gets_ascii() -> None:
    stream = Stream(tty=True, encoding="ascii")
    stream.fileno = lambda: -1  # type: ignore[method-assign]
    writer = answer_writer(stream)
    assert isinstance(writer, MarkdownWriter)
    writer.write("- yes\n")
    assert stream.bytes.getvalue() == b"* yes\r\n"


def test_a_closed_output_is_refused() -> None:
    with pytest.raises(OutputError, match="closed"):
        answer_writer(None)


def test_the_renderer_is_imported_where_it_is_needed() -> None:
    script = (
        "import sys, llmstream_cli.cli.markdown as m\n"
        "m.answer_writer(sys.stdout).write('**a**')\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"**a**"
    assert not {"markdown_it", "rich", "pygments"} & set(done.stderr.decode().split())
