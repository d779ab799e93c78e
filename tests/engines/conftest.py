"""Fixtures of the core's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.engines import child
from tests.gguf_files import write_mamba


@pytest.fixture
def tiny_path(tmp_path: Path) -> Path:
    """A model that loads in milliseconds and writes nonsense without end."""
    return write_mamba(tmp_path / "tiny.gguf")


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives the processes that are started from now on a fault; see `faulty_worker`."""
    monkeypatch.setattr(child, "WORKER_MODULE", "tests.engines.faulty_worker")
    return lambda name: monkeypatch.setenv(
        "LLAMA_FAULT", name
    )  # as one of the variables that it sees
