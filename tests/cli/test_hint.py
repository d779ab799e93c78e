"""The hint that there are better models: once, and never in anyone's way."""

import re
import sys
from pathlib import Path

import pytest

from llmstream_cli.cli import hint
from llmstream_cli.machine import Memory
from llmstream_cli.models.fit import Speed
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.models.resolve import ResolvedModel
from tests.cli.model_commands import on_a_terminal

QUESTION = ("ask", "Where is Paris?", "-t", "0", "-n", "4")
FAST = 150.0  # tokens per second
HINT = re.compile(r"\r\nllmstream: .*`llmstream models pull ([\w.-]+)` .*\r\n$")


@pytest.fixture
def state(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TERM", "dumb")  # neither markdown nor a line that tells what is waited for
    return home / "state" / "llmstream"


def hint_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tokens_per_second: float = FAST) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        hint.hint_once(found(), tokens_per_second)


def shown_to(*arguments: str) -> str:
    """Run a command on a terminal, one on which no wait can be shown; return what is there."""
    return str(on_a_terminal(*arguments, term="dumb").read())


def found() -> ResolvedModel:
    return ResolvedModel(
        path=Path("m.gguf"), name="smollm2", seconds=0.0, preset=PRESETS["smollm2"]
    )


def test_the_first_answer_on_a_terminal_is_followed_by_the_hint(state: Path) -> None:
    first = shown_to(*QUESTION)
    match = HINT.search(first)
    assert match is not None, first
    assert match[1] in PRESETS
    assert first.startswith("Paris is the capital")
    assert shown_to(*QUESTION) == "Paris is the capital\r\n"


def test_another_model_brings_no_hint(state: Path, model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "own.gguf").symlink_to(model_path)
    shown = shown_to(*QUESTION, "--model", str(tmp_path / "own.gguf"))
    assert shown == "Paris is the capital\r\n"
    assert not state.exists()


def test_it_is_remembered(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint_on_a_terminal(monkeypatch)
    assert "models pull" in capsys.readouterr().err
    assert [path.name for path in state.iterdir()] == ["hinted"]
    hint_on_a_terminal(monkeypatch)
    assert capsys.readouterr().err == ""


def test_a_pipe_gets_no_hint(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hint.hint_once(found(), FAST)
    assert capsys.readouterr().err == ""
    assert not state.exists()


def test_what_cannot_be_remembered_is_not_told_each_time(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state.parent.touch()  # a file where the folder would be
    hint_on_a_terminal(monkeypatch)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("state")
def test_it_names_what_the_memory_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "llmstream_cli.machine.memory", lambda: Memory(2_000_000_000, 1_700_000_000)
    )
    hint_on_a_terminal(monkeypatch)
    match = re.search(r"models pull (\S+)`", capsys.readouterr().err)
    assert match is not None
    assert PRESETS[match[1]].memory_bytes() < 1_700_000_000


def test_a_machine_for_no_better_model_gets_no_hint(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = Speed(bytes_per_second=1e8)
    monkeypatch.setattr("llmstream_cli.cli.speed.remembered_speed", lambda: slow)
    hint_on_a_terminal(monkeypatch)
    assert capsys.readouterr().err == ""
    assert not state.exists()  # a better machine may come


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(
    ("tokens_per_second", "name"), [(1000.0, "qwen3-4b"), (16.0, "granite-350m")]
)
def test_where_nothing_was_measured_the_answer_tells_what_is_fast_enough(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tokens_per_second: float,
    name: str,
) -> None:
    monkeypatch.setattr(
        "llmstream_cli.machine.memory", lambda: Memory(64_000_000_000, 60_000_000_000)
    )
    monkeypatch.setattr("llmstream_cli.cli.speed.remembered_speed", lambda: None)
    hint_on_a_terminal(monkeypatch, tokens_per_second)
    assert f"models pull {name}`" in capsys.readouterr().err


def test_an_answer_too_short_to_tell_brings_no_hint(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint_on_a_terminal(monkeypatch, 0.0)
    assert capsys.readouterr().err == ""
    assert not state.exists()  # the next answer may be longer
