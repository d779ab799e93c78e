"""Fixtures of the commands' tests."""

from pathlib import Path

import pytest


@pytest.fixture
def home(own_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give commands empty caches, and a state folder of their own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(own_caches / "state"))
    return own_caches
