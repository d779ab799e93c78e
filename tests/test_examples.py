"""Every example runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gguf_files import write_llama
from tests.server.process import running_server

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


@pytest.mark.parametrize("example", ["openai_client.py", "ollama_client.py"])
def test_clients(example: str, tmp_path: Path) -> None:
    with running_server(tmp_path / "log") as url:
        answer, tokens, place = run(sys.executable, str(EXAMPLES / example), url).splitlines()
    assert "Paris" in answer
    assert tokens.endswith(" tokens]")
    assert place.startswith("Place(city=")


def test_tools(tmp_path: Path) -> None:
    with running_server(tmp_path / "log") as url:
        call, *answer = run(sys.executable, str(EXAMPLES / "tools.py"), url).splitlines()
    assert re.fullmatch(r'weather\(\{"city": "(\w+)"\}\) -> It rains in \1, at 12 °C\.', call)
    assert "".join(answer)


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ((), "token_stream.sh"),
        ((sys.executable,), "token_stream.py"),
        (("node",), "token_stream.mjs"),
    ],
)
def test_token_stream(command: tuple[str, ...], example: str, tmp_path: Path) -> None:
    with running_server(tmp_path / "log", "--threads", "1") as url:
        answer = run(*command, str(EXAMPLES / example), url)
    assert "Paris is the capital of France" in answer
    assert answer.endswith("stopped\n")


def test_choose_model(tmp_path: Path) -> None:
    other = write_llama(tmp_path / "babble.gguf")
    with running_server(tmp_path / "log", "-f", "smollm2", "-m", str(other)) as url:
        first, *second = run(sys.executable, str(EXAMPLES / "choose_model.py"), url).splitlines()
    assert first.startswith("smollm2: Paris is the capital of France")
    assert second[0].startswith("babble: ")


def test_no_example_is_untested() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        "ask.sh",
        "choose_model.py",
        "ollama_client.py",
        "openai_client.py",
        "stream_from_python.py",
        "token_stream.mjs",
        "token_stream.py",
        "token_stream.sh",
        "tools.py",
    }
