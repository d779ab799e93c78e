"""Fixtures of the commands' tests."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.cli import app

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(own_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give commands empty caches, and a state folder of their own."""
    return own_caches


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line in this process, into pipes; return its exit code and both outputs."""

    def run(*arguments: str, stdin: bytes = b"", **environment: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            code = app.run(arguments)
        return code, *capsys.readouterr()

    return run
