"""`llmstream models list`: a table, columns, or JSON."""

import json
import re
from pathlib import Path

import pytest

from llmstream_cli.models.presets import PRESETS
from tests.cli.model_commands import models, on_a_terminal
from tests.gguf_files import write_llama
from tests.hub_server import HubServer
from tests.preset_sources import source

QWEN = source("qwen3.5-2b")


@pytest.fixture
def downloaded(hub: HubServer, home: Path, tmp_path: Path) -> None:
    """A preset, and a model that is none."""
    content = write_llama(tmp_path / "llama.gguf").read_bytes()
    hub.add(QWEN.repo, {QWEN.file: content})
    hub.add("someone/Tiny-GGUF", {"tiny-Q8_0.gguf": content})
    assert models("pull", "qwen3.5-2b", "someone/Tiny-GGUF").returncode == 0


def test_json_has_all_there_is_to_know(downloaded: None, model_path: Path) -> None:
    done = models("list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    presets = {preset["name"]: preset for preset in found["presets"]}
    assert presets.keys() == PRESETS.keys()
    assert {name for name in presets if presets[name]["cached"]} == {"smollm2", "qwen3.5-2b"}
    assert presets["smollm2"]["path"] == str(model_path)
    assert Path(presets["qwen3.5-2b"]["path"]).is_file()
    mistral = presets["mistral"]
    assert mistral["size_bytes"] == 4_370_000_000
    assert mistral["licence"] == "Apache-2.0"
    assert mistral["fits"] in {"yes", "tight", "no"}
    assert mistral["path"] is None
    machine = found["machine"]
    assert 0 < machine["available_memory_bytes"] <= machine["memory_bytes"]
    expected = machine["memory_bytes_per_second"] / mistral["size_bytes"]
    assert mistral["about_tokens_per_second"] == pytest.approx(expected, abs=0.01)


def test_json_has_cached_models_that_are_no_presets(downloaded: None) -> None:
    (other,) = json.loads(models("list", "--json").stdout)["cached"]
    assert (other["repo"], other["file"]) == ("someone/Tiny-GGUF", "tiny-Q8_0.gguf")
    assert other["size_bytes"] == Path(other["path"]).stat().st_size
    assert other["complete"]


def test_a_pipe_gets_the_whole_table(downloaded: None) -> None:
    heading, *lines = models("list").stdout.splitlines()
    assert heading.split() == ["name", "size", "fits", "tok/s", "here", "licence", "model"]
    start = heading.index("licence")
    for row, preset in zip(lines, PRESETS.values(), strict=False):
        assert row.split()[0] == preset.name
        assert row[start:].startswith(preset.licence)
        assert row.rstrip().endswith(preset.summary)
    assert any(re.match(r"someone/Tiny-GGUF/tiny-Q8_0\.gguf +\d+ kB", line) for line in lines)


def test_a_terminal_of_80_columns_shows_every_column(downloaded: None) -> None:
    child = on_a_terminal("models", "list")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", child.read())
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    for name, preset in PRESETS.items():
        (row,) = [line for line in lines if line.startswith(f"{name} ")]
        assert preset.licence in row
        assert row.endswith(preset.summary)
    assert any(line.startswith("someone/Tiny-GGUF/tiny-Q8_0.gguf") for line in lines)


def test_a_name_in_the_cache_cannot_control_the_terminal(home: Path) -> None:
    """Other programs fill the cache too, with files of any name."""
    folder = home / "huggingface" / "hub" / "models--someone--Tiny" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "e\x1b[2Jvil.gguf").write_bytes(b"GGUF")
    assert "\x1b" not in models("list").stdout
    assert "\x1b[2J" not in on_a_terminal("models", "list").read()
