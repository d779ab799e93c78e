"""Every example runs."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*command: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_ask_sh() -> None:
    answer = run(str(EXAMPLES / "ask.sh"))
    assert answer.startswith("The model says: ")
    assert "Paris" in answer


def test_stream_from_python() -> None:
    answer = run(sys.executable, str(EXAMPLES / "stream_from_python.py"))
    assert "Paris" in answer
    assert answer.endswith((" tokens, length]\n", " tokens, stop]\n"))


def test_no_example_is_untested() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {"ask.sh", "stream_from_python.py"}
