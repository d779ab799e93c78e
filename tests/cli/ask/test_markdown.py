"""What a terminal shows while an answer comes, at its end, and when the answer is interrupted."""

import io
import itertools
import os
import re
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from typing import Any, cast

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.cli.ask.markdown import MarkdownWriter
from llmstream_cli.cli.ask.view import answer_writer
from llmstream_cli.errors import OutputError
from tests.cli.ask.markdown_texts import cut, documents, documents_without_tables, visible
from tests.cli.ask.reflowing_terminal import ReflowingTerminal
from tests.cli.test_terminal import Stream

STYLE = re.compile(r"\x1b\[[0-9;]*m")
FRAME = re.compile(r"\x1b(?:\[(?:\?[0-9]+[hl]|[BJK])|[78])")
SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?]*[ABGJKhlm]|[78])")

COLUMNS = [40, 80, 200]
widths = st.sampled_from([12, *COLUMNS])
heights = st.integers(3, 24)


class Tty(io.TextIOWrapper):
    """A terminal's end of standard output: hands on what is written."""

    def __init__(self, receive: Callable[[bytes], object], encoding: str = "utf-8") -> None:
        self._receive = receive
        super().__init__(io.BytesIO(), encoding=encoding)

    @property
    def buffer(self) -> io.BufferedWriter:
        return cast("io.BufferedWriter", self)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._receive(data)
        return len(data)

    def flush(self) -> None:
        pass


def make_writer(
    receive: Callable[[bytes], object], columns: int, lines: int = 24, *, color: bool = True
) -> MarkdownWriter:
    """A writer that draws after each piece."""
    size = os.terminal_size((columns, lines))
    clock = itertools.count().__next__
    return MarkdownWriter(Tty(receive), color=color, size=lambda: size, clock=clock)


def written(text: str, columns: int = 80, *, color: bool = True) -> str:
    """What a terminal gets of an answer that comes at once, without what frames it."""
    received: list[bytes] = []
    writer = make_writer(received.append, columns, color=color)
    writer._source = text
    writer.end()
    return FRAME.sub("", b"".join(received).decode())


def emulated(pieces: Sequence[str], columns: int, lines: int) -> tuple[list[str], tuple[int, int]]:
    """The rows of pyte's terminal and its scrollback, and where its cursor is."""
    screen = pyte.HistoryScreen(columns, lines, history=100_000)
    stream = pyte.ByteStream(screen)
    writer = make_writer(stream.feed, columns, lines)
    for piece in pieces:
        writer.write(piece)
    writer.end()
    past = ["".join(row[x].data for x in range(columns)) for row in screen.history.top]
    rows = [row.rstrip() for row in (*past, *screen.display)]
    assert not screen.cursor.hidden
    return "\n".join(rows).rstrip().split("\n"), (len(past) + screen.cursor.y, screen.cursor.x)


@settings(max_examples=20)
@given(st.data(), documents, st.sampled_from(COLUMNS), heights)
def test_the_screen_at_the_end_does_not_depend_on_how_the_answer_came(
    data: st.DataObject, text: str, columns: int, lines: int
) -> None:
    rows, (row, column) = emulated(data.draw(cut(text)), columns, lines)
    assert (rows, (row, column)) == emulated([text], columns, lines)
    assert column == 0
    assert row >= len(rows) or rows == [""]


@settings(max_examples=20)
@given(st.data(), documents_without_tables)
def test_no_resize_loses_a_word_or_leaves_anything_behind(data: st.DataObject, text: str) -> None:
    size = os.terminal_size((80, 24))
    terminal = ReflowingTerminal(*size)
    clock = itertools.count().__next__
    writer = MarkdownWriter(Tty(terminal.feed), size=lambda: size, clock=clock)
    for piece in data.draw(cut(text)):
        writer.write(piece)
        if data.draw(st.booleans()):
            size = os.terminal_size((data.draw(st.integers(60, 100)), data.draw(heights)))
            terminal.resize(*size)
    writer.end()
    undisturbed, _ = emulated([text], 200, 24)
    assert visible(terminal.text) == visible("".join(undisturbed))


def interrupted(pieces: Sequence[str], columns: int, lines: int) -> str:
    """What is on the terminal if Ctrl-C comes after the last piece."""
    terminal = ReflowingTerminal(columns, lines)
    writer = make_writer(terminal.feed, columns, lines)
    for piece in pieces:
        writer.write(piece)
    terminal.feed(b"^C")  # as terminals echo it
    writer.end(cut=True)
    assert terminal.column == 0
    return terminal.text.replace("^C", "")  # which stays where it was broken over two rows


@settings(max_examples=20)
@given(st.data(), documents_without_tables, widths, heights)
def test_an_interrupt_after_any_piece_keeps_all_text(
    data: st.DataObject, text: str, columns: int, lines: int
) -> None:
    pieces = data.draw(cut(text))
    whole = ReflowingTerminal(columns, lines)
    writer = make_writer(whole.feed, columns, lines)
    writer.write(text)
    writer.end()
    assert visible(interrupted(pieces, columns, lines)) == visible(whole.text)


@pytest.mark.parametrize("piece", ["two **three four", "two\n\n**three four\n"])
@pytest.mark.parametrize("written", [False, True])
def test_an_interrupt_within_a_write_keeps_all_text(written: bool, piece: str) -> None:
    """Ctrl-C comes before the bytes are out, or after that but before it is noted."""
    terminal = ReflowingTerminal(30, 10)
    cut = False

    def receive(data: bytes) -> None:
        nonlocal cut
        is_cut = not cut and b"three" in data
        cut = cut or is_cut
        if written or not is_cut:
            terminal.feed(data)
        if is_cut:
            raise CancelledError

    writer = make_writer(receive, 30, 10)
    writer.write("one ")
    with pytest.raises(CancelledError):
        writer.write(piece)
    writer.end(cut=True)
    words = terminal.text.replace("*", "").split()
    assert {"one", "two", "three", "four"} <= set(words)


@given(st.text(), widths)
def test_a_terminal_gets_no_control_character_of_the_answers(text: str, columns: int) -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, columns)
    writer.write(text)
    writer.end()
    shown = SEQUENCES.sub("", b"".join(received).decode())
    assert not {c for c in shown if c not in "\r\n" and (ord(c) < 32 or 127 <= ord(c) < 160)}


@pytest.mark.parametrize("entity", ["&#27;[2J", "&#x9b;2J", "a&NewLine;b", "&#13;", "&Tab;"])
def test_no_entity_names_a_control_character(entity: str) -> None:
    assert STYLE.sub("", written(f"{entity} end")).rstrip().isprintable()


def test_each_word_is_seen_at_once() -> None:
    terminal = ReflowingTerminal(40, 10)
    writer = make_writer(terminal.feed, 40, 10)
    for piece, shown in [
        ("Par", "Par"),
        ("is is", "Paris is"),
        (" the **cap", "Paris is the **cap"),
        ("ital**", "Paris is the capital"),
        (".\n\n- on", "Paris is the capital.\n\n • on"),
        ("e\n\n| a |", "Paris is the capital.\n\n • one\n\n| a |"),
        ("\n|---|\n| wide |", "Paris is the capital.\n\n • one\n\n a\n ────\n wide"),
        ("\n\n```py\nx = ", "Paris is the capital.\n\n • one\n\n a\n ────\n wide\n\nx ="),
    ]:
        writer.write(piece)
        assert terminal.text == shown


def test_a_complete_block_is_printed_once_and_never_again() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 80)
    for piece in ["# one\n", "\ntwo\n", "\nthree", " four"]:
        writer.write(piece)
    writer.end()
    frames = [FRAME.sub("", data.decode()) for data in received]
    assert frames == [
        "\x1b[1;4mone\x1b[0m\r",
        "\x1b[1;4mone\x1b[0m\r\n\r\ntwo\x1b[1A\r",
        "\r\ntwo\r\n\r\nthree\x1b[3A\r",
        "\r\ntwo\r\n\r\nthree four\x1b[3A\r",
        "\r\ntwo\r\n\r\nthree four\r\n",
    ]


def test_frames_are_bounded_and_none_is_lost() -> None:
    received: list[bytes] = []
    now = [0.0]
    size = os.terminal_size((80, 24))
    writer = MarkdownWriter(Tty(received.append), size=lambda: size, clock=lambda: now[0])
    for number in range(100):
        writer.write(f"{number} ")
        now[0] += 0.01
    assert len(received) <= 21
    writer.end()
    assert " 99" in received[-1].decode()


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("# a\n## b", "\x1b[1;4ma\x1b[0m\r\n\r\n\x1b[1mb\x1b[0m\r\n"),
        ("a **b** `c`", "a \x1b[1mb\x1b[0m \x1b[36mc\x1b[0m\r\n"),
        ("7. a\n8. b", " 7. a\r\n 8. b\r\n"),
        ("- a\n  - b", " • a\r\n    • b\r\n"),
        ("[a](http://b.c)", "a (\x1b[4mhttp://b.c\x1b[0m)\r\n"),
        ("<div>a</div>\n\n[l]: u", "<div>a</div>\r\n\r\n[l]: u\r\n"),
        ("```\na  b\n  c\n```", "a  b\r\n  c\r\n"),
        ("```nonsense\na\n```", "a\r\n"),
    ],
)
def test_markup(source: str, shown: str) -> None:
    assert written(source) == shown


def test_code_can_be_copied() -> None:
    code = "def f():\n    return 1"
    shown = written(f"```python\n{code}\n```")
    assert "\x1b[" in shown
    assert STYLE.sub("", shown) == code.replace("\n", "\r\n") + "\r\n"
    assert not re.search(r"\x1b\[[0-9;]*4[0-7]m", shown), "a background"


def test_what_is_higher_than_the_screen_shows_its_end() -> None:
    terminal = ReflowingTerminal(30, 6)
    writer = make_writer(terminal.feed, 30, 6)
    writer.write("| a |\n|---|\n")
    for number in range(20):
        writer.write(f"| row {number} |\n")
        assert f"row {number}" in terminal.text
        assert len(terminal.rows) <= 6
    writer.end()
    assert [f"row {number}" in terminal.text for number in range(20)] == [True] * 20


def test_a_screen_without_room_gets_complete_blocks_as_text() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 9, 24)
    writer.write("**one**")
    assert received == []
    writer.write("\n\ntw")
    writer.end()
    assert FRAME.sub("", b"".join(received).decode()) == "**one**\r\n\r\ntw\r\n"


def test_an_answer_without_text_writes_nothing() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 80)
    for piece in ("", "\x1b", "\n\n"):
        writer.write(piece)
    writer.end()
    assert received == []


def test_a_terminal_that_cannot_be_written_to_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(data: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("llmstream_cli.cli.terminal.discard_output", lambda: None)
    writer = make_writer(receive, 80)
    with pytest.raises(OutputError, match="Input/output error"):
        writer.write("one ")


# What an answer is written with, by what standard output is.


@pytest.fixture
def color_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


def answered(text: str, *, tty: bool = True, encoding: str = "utf-8", raw: bool = False) -> str:
    stream = Stream(tty=tty, encoding=encoding)
    stream.fileno = lambda: -1  # type: ignore[method-assign]
    writer = answer_writer(stream, markdown=not raw)
    writer.write(text)
    writer.end()
    return FRAME.sub("", stream.bytes.getvalue().decode(encoding))


@pytest.mark.usefixtures("color_terminal")
@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ({}, "\x1b[1myes\x1b[0m\r\n"),
        ({"raw": True}, "**yes**\n"),
        ({"tty": False}, "**yes**\n"),
        ({"encoding": "ascii"}, "**yes**\n"),
    ],
)
def test_a_terminal_with_utf_8_gets_it_rendered(kind: dict[str, Any], shown: str) -> None:
    assert answered("**yes**\n", **kind).endswith(shown)


def test_a_terminal_without_control_sequences_gets_it_as_generated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert answered("**yes**\n") == "**yes**\n"


@pytest.mark.usefixtures("color_terminal")
@pytest.mark.parametrize(("value", "style"), [("1", "1"), ("", "36")])
def test_no_color_turns_colours_off_unless_it_is_empty(
    monkeypatch: pytest.MonkeyPatch, value: str, style: str
) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    assert answered("`x`\n").endswith(f"\x1b[{style}mx\x1b[0m\r\n")


@pytest.mark.slow
def test_the_renderer_is_imported_where_it_is_needed() -> None:
    script = (
        "import sys, llmstream_cli.cli.ask.view as t\n"
        "t.answer_writer(sys.stdout, markdown=True).write('**a**')\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"**a**"
    assert not {"markdown_it", "rich", "pygments"} & set(done.stderr.decode().split())
