"""What a name means, before anyone has looked for it."""

from pathlib import Path

import pytest

from llmstream_cli.models.named_model import called_model, named_model, preset_of_file
from llmstream_cli.models.presets import PRESETS

MISTRAL = PRESETS["mistral"]
AT_SMOLLM2 = str(PRESETS["smollm2"].source)


def test_a_preset_is_its_file_on_the_hub() -> None:
    model = named_model("Mistral")
    assert model == called_model("mistral")
    assert model.hub == MISTRAL.source
    assert model.is_called
    assert not model.is_packaged


def test_a_preset_is_its_file_in_a_package(model_path: Path) -> None:
    model = named_model("smollm2")
    assert model.file == model_path
    assert model.is_packaged


def test_a_preset_s_address_means_the_preset_but_no_package() -> None:
    model = named_model(AT_SMOLLM2)
    assert model.preset is PRESETS["smollm2"]
    assert model.file is None
    assert not model.is_called
    assert not model.is_packaged


@pytest.mark.parametrize("text", [str(MISTRAL.repo), f"{MISTRAL.repo}:Q8_0", "other/m"])
def test_another_file_is_no_preset(text: str) -> None:
    assert named_model(text).preset is None


def test_a_path_is_a_file_and_nothing_else(tmp_path: Path) -> None:
    model = named_model(str(tmp_path / str(MISTRAL.file)))
    assert (model.preset, model.hub) == (None, None)
    assert model.file == tmp_path / str(MISTRAL.file)


def test_a_preset_s_file_is_known_by_its_name(tmp_path: Path, model_path: Path) -> None:
    assert preset_of_file(tmp_path / str(MISTRAL.file).upper()) is MISTRAL
    assert preset_of_file(model_path) is PRESETS["smollm2"]
    assert preset_of_file(tmp_path / "mistral.gguf") is None
