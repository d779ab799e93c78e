"""The `--help` of each command in docs/cli.md.

    python -m tests.cli_help

writes it there anew. A test compares.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100  # columns

_BLOCK = re.compile(
    r"(<details>\n<summary><code>llmstream (?P<words>[a-z ]*)--help</code></summary>\n\n```text\n)"
    r".*?"
    r"(```\n\n</details>\n)",
    re.DOTALL,
)


def help_of(words: str) -> str:
    """Return what a command says of itself on a terminal of that width, without colours."""
    done = subprocess.run(
        [sys.executable, "-m", "llmstream_cli", *words.split(), "--help"],
        env={
            **os.environ,
            "TERMINAL_WIDTH": str(WIDTH),
            "TERM": "dumb",
            "NO_COLOR": "1",
            "PYTHONUTF8": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    lines = (line.rstrip() for line in done.stdout.splitlines())
    return "\n".join(lines).strip("\n") + "\n"


def commands(page: str) -> list[str]:
    """Return the words of the commands whose help a page has."""
    return [block["words"].strip() for block in _BLOCK.finditer(page)]


def updated(page: str) -> str:
    """Return the page with the help of each command as it is now."""
    return _BLOCK.sub(lambda block: block[1] + help_of(block["words"]) + block[3], page)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
