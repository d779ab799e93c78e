"""Fixtures of the commands' tests."""

from pathlib import Path

import pytest

from llmstream_cli.cli import speed as machine_speed
from llmstream_cli.models.fit import Speed

SPEED = Speed(bytes_per_second=40e9, layer_seconds=150e-6, weights_per_second=80e9)


@pytest.fixture
def home(own_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give commands empty caches, no memory of a hint, and a machine whose speed is known."""
    monkeypatch.setenv("XDG_STATE_HOME", str(own_caches / "state"))
    machine_speed._remember(SPEED)
    return own_caches
