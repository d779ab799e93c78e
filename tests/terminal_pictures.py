"""The pictures of docs/chat.md and docs/models.md, drawn from a real terminal.

    python -m tests.terminal_pictures

runs the commands with the real model and draws what is on the screen as SVG, anew. What the model
says, and so the pictures, may differ from machine to machine.
"""

import os
import tempfile
from html import escape
from pathlib import Path

import pyte

from tests.cli.terminals import CTRL_D, ENTER, Terminal, terminal

FOLDER = Path(__file__).parent.parent / "docs" / "terminal"
COLUMNS, LINES = 80, 28

_CELL, _ROW, _MARGIN, _FONT = 8.4, 18, 14, 14  # pixels
_GROUND, _INK = "#1b1f23", "#d8dee4"
_COLOURS = {
    "default": _INK,
    "black": "#6b7280",
    "red": "#f08080",
    "green": "#7ccf8a",
    "brown": "#e0b866",
    "blue": "#79b8ff",
    "magenta": "#d4a5f5",
    "cyan": "#6cd0d8",
    "white": "#f4f6f8",
}


def draw(screen: pyte.Screen) -> str:
    """Return a screen as SVG."""
    num_rows = max(row for row in range(LINES) if screen.display[row].strip()) + 1
    width, height = COLUMNS * _CELL + 2 * _MARGIN, num_rows * _ROW + 2 * _MARGIN
    font = f'font-family="monospace" font-size="{_FONT}" fill="{_INK}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {font}>',
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{_GROUND}"/>',
    ]
    for row in range(num_rows):
        y = _MARGIN + (row + 0.75) * _ROW
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            if not cell.data.strip():
                continue
            x = _MARGIN + column * _CELL
            style = "".join(
                f' {name}="{value}"'
                for name, value, is_on in (
                    ("fill", _colour(cell.fg), cell.fg != "default"),
                    ("font-weight", "bold", cell.bold),
                    ("font-style", "italic", cell.italics),
                    ("text-decoration", "underline", cell.underscore),
                )
                if is_on
            )
            lines.append(f'<text x="{x:.1f}" y="{y:g}"{style}>{escape(cell.data)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _colour(name: str) -> str:
    return _COLOURS.get(name.removeprefix("bright"), f"#{name}" if len(name) == 6 else _INK)


def chat(shown: Terminal) -> None:
    """Two turns, one of them with code, and what the second reused."""
    shown.wait_for(">>>")
    shown.wait_until_edited()
    shown.send("Write a Python function that adds two numbers." + ENTER)
    shown.wait_for(">>>", times=2)
    shown.wait_until_edited()
    shown.send("Where is Paris? Answer in one sentence." + ENTER)
    shown.wait_for(">>>", times=3)
    shown.wait_until_edited()
    shown.send("/show usage" + ENTER)
    shown.wait_for("reused")
    shown.wait_until_edited()


def main() -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMSTREAM_HISTORY"] = str(Path(folder) / "history.db")
        os.environ["LLMSTREAM_CONFIG"] = ""
        with terminal(
            "chat", "--temperature", "0", "-n", "110", columns=COLUMNS, lines=LINES
        ) as it:
            chat(it)
            (FOLDER / "chat.svg").write_text(draw(it.screen), encoding="utf-8")
            it.send(CTRL_D)
            it.end()
        with terminal(
            "models",
            "list",
            columns=COLUMNS,
            lines=LINES,
            shell='"$1" -m llmstream_cli models list',
        ) as it:
            it.end()
            (FOLDER / "models.svg").write_text(draw(it.screen), encoding="utf-8")


if __name__ == "__main__":
    main()
