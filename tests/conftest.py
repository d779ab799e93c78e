"""Fixtures that many tests share."""

from pathlib import Path

import pytest

from llmstream_cli.models.presets import PRESETS


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model: SmolLM2-135M-Instruct in Q4_1."""
    return PRESETS["smollm2"].locate()
