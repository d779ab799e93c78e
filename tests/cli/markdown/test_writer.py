"""What a terminal shows while an answer comes, at its end, and when the answer is interrupted."""

import io
import os
import re
from collections.abc import Callable, Sequence
from typing import cast

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.cli.markdown.style import Palette
from llmstream_cli.cli.markdown.writer import MarkdownWriter
from llmstream_cli.errors import OutputError
from tests.cli.markdown.terminal import ReflowingTerminal
from tests.cli.markdown.texts import cut, documents, documents_without_tables, visible

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
    receive: Callable[[bytes], object], columns: int, lines: int = 24, encoding: str = "utf-8"
) -> MarkdownWriter:
    size = os.terminal_size((columns, lines))
    return MarkdownWriter(Tty(receive, encoding), Palette(), lambda: size)


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


@given(st.data(), documents, st.sampled_from(COLUMNS), heights)
def test_the_screen_at_the_end_does_not_depend_on_how_the_answer_came(
    data: st.DataObject, text: str, columns: int, lines: int
) -> None:
    rows, (row, column) = emulated(data.draw(cut(text)), columns, lines)
    assert (rows, (row, column)) == emulated([text], columns, lines)
    assert column == 0
    assert row >= len(rows) or rows == [""]


@given(st.data(), documents_without_tables)
def test_no_resize_loses_a_word_or_leaves_anything_behind(data: st.DataObject, text: str) -> None:
    size = os.terminal_size((80, 24))
    terminal = ReflowingTerminal(*size)
    writer = MarkdownWriter(Tty(terminal.feed), Palette(), lambda: size)
    for piece in data.draw(cut(text)):
        writer.write(piece)
        if data.draw(st.booleans()):
            size = os.terminal_size((data.draw(st.integers(4, 100)), data.draw(heights)))
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
    terminal.feed(writer.last_words())
    assert terminal.column == 0
    return terminal.text.replace("^C", "")  # which stays where it was broken over two rows


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


@pytest.mark.parametrize("written", [False, True])
def test_an_interrupt_within_a_write_keeps_all_text(written: bool) -> None:
    """The handler runs before the bytes are out, or after that but before it is noted."""
    terminal = ReflowingTerminal(20, 10)
    answer = "one two **three four"
    ends: list[str] = []

    def receive(data: bytes) -> None:
        if not written and len(ends) == 0 and b"three" in data:
            terminal.feed(writer.last_words())
            ends.append(terminal.text)
        terminal.feed(data)
        if written and len(ends) == 0 and b"three" in data:
            terminal.feed(writer.last_words())
            ends.append(terminal.text)

    writer = make_writer(receive, 20, 10)
    for piece in ("one ", answer.removeprefix("one ")):
        writer.write(piece)
    words = ends[0].replace("*", "").split()
    assert {"one", "two", "three", "four"} <= set(words)


SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?]*[ABGJKhlm]|[78])")


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
    received: list[bytes] = []
    writer = make_writer(received.append, 40)
    writer.write(f"{entity} end")
    writer.end()
    shown = SEQUENCES.sub("", b"".join(received).decode()).rstrip()
    assert shown.isprintable()


def test_each_word_is_seen_at_once() -> None:
    terminal = ReflowingTerminal(40, 10)
    writer = make_writer(terminal.feed, 40, 10)
    for piece, shown in [
        ("Par", "Par"),
        ("is is", "Paris is"),
        (" the **cap", "Paris is the **cap"),
        ("ital**", "Paris is the capital"),
        (".\n\n- on", "Paris is the capital.\n\n• on"),
        ("e\n| a |", "Paris is the capital.\n\n• one\n| a |"),
        ("\n|---|", "Paris is the capital.\n\n• one\na\n─"),
        ("\n| wide", "Paris is the capital.\n\n• one\na\n────\nwide"),
        (" |\n```py\nx = ", "Paris is the capital.\n\n• one\na\n────\nwide\n```py\nx ="),
    ]:
        writer.write(piece)
        assert terminal.text == shown


def test_a_certain_word_is_written_once_and_never_again() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 80)
    for piece in ["one ", "two ", "three ", "four"]:
        writer.write(piece)
    assert received == [b"one", b" two", b" three", b"\x1b7 four\x1b8"]


def test_what_is_drawn_is_erased_in_the_same_write() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 80)
    for piece in ["fo", "ur "]:
        writer.write(piece)
    assert received == [b"\x1b7fo\x1b8", b"\x1b[Kfour"]


def test_several_rows_are_drawn_without_a_frame_in_between() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 12)
    writer.write("one **two three")
    rows = b"one **two\r\nthree\x1b[1A\x1b[4G"
    assert received == [b"\x1b[?2026h\x1b[?25l" + rows + b"\x1b[?25h\x1b[?2026l"]


def test_what_is_higher_than_the_screen_shows_its_end() -> None:
    terminal = ReflowingTerminal(20, 6)
    writer = make_writer(terminal.feed, 20, 6)
    writer.write("| a |\n|---|\n")
    for number in range(20):
        writer.write(f"| row {number} |\n")
        assert f"row {number}" in terminal.text
        assert len(terminal.rows) <= 6
    writer.end()
    assert [f"row {number}" in terminal.text for number in range(20)] == [True] * 20


def test_a_screen_without_room_gets_what_is_certain() -> None:
    received: list[bytes] = []
    writer = make_writer(received.append, 9, 24)
    writer.write("one tw")
    assert received == [b"one"]
    writer.end()
    assert b"".join(received) == b"one tw\r\n"


def test_another_encoding_gets_what_it_has() -> None:
    received: list[bytes] = []
    writer = MarkdownWriter(
        Tty(received.append, "latin-1"),
        Palette(unicode=False),
        lambda: os.terminal_size((80, 24)),
    )
    writer.write("- größe 日\n")
    writer.end()
    assert b"".join(received) == b"* gr\xf6\xdfe ?\r\n"


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
