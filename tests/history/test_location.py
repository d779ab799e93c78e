"""Where the conversations are kept."""

from pathlib import Path

import pytest

from llmstream_cli.history.location import VARIABLE, history_path


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert history_path() == tmp_path / "llmstream" / "history.db"


def test_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "~/talks.db")
    assert history_path() == Path.home() / "talks.db"


@pytest.mark.parametrize("off", ["off", "OFF"])
def test_no_place(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    monkeypatch.setenv(VARIABLE, off)
    assert history_path() is None
