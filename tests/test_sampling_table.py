"""A row in the table of sampling parameters makes a parameter known everywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import contextlib, io, json, os, sys, types
from importlib.util import find_spec

path = find_spec("llmstream_cli.sampling").origin
source = open(path, encoding="utf-8").read()
row = '    warmth: float = _row(0.25, "how warm", (0, 1), _ALL, "--warmth -w")\\n'
module = sys.modules["llmstream_cli.sampling"] = types.ModuleType("llmstream_cli.sampling")
exec(source.replace("    top_k:", row + "    top_k:", 1), module.__dict__)

from llmstream_cli.cli.app import run
from llmstream_cli.cli.chat.slash import complete
from llmstream_cli.api import GenerationRequest
from llmstream_cli.engines.openai_format import request_body
from tests.field_docs import TABLES

def printed(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = run(words)
    return code, out.getvalue()

asked = GenerationRequest(prompt="hi", sampling=module.SamplingParams(warmth=0.75))
print(json.dumps({
    "helps": [printed(name, "--help")[1] for name in ("ask", "chat", "serve")],
    "refused": printed("ask", "--warmth", "2", "hi"),
    "set": list(complete(("/set",))),
    "kept": json.loads(printed("config", "show", "--json")[1])["settings"],
    "dialects": {name: [m.__name__ for m in models if "warmth" in m.model_fields]
                 for name, (models, _) in TABLES.items()},
    "remote": request_body(asked, "m", owner="llamacpp"),
}))
"""


@pytest.mark.slow
def test_a_row_is_an_option_a_setting_a_field_and_a_remote_name(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[serve]\nwarmth = 0.5\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"LLMSTREAM_CONFIG": str(config), "HOME": str(tmp_path), "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for text in found["helps"]:
        assert "--warmth" in text
        assert "How warm." in text
        assert "0.25" in text
    code, message = found["refused"]
    assert (code, message) == (2, "llmstream: --warmth must be between 0 and 1\n")
    assert "warmth " in found["set"]
    kept = {tuple(row["commands"]): row for row in found["kept"] if row["setting"] == "warmth"}
    assert kept["serve",]["value"] == 0.5
    assert kept["serve",]["place"] == f"{config}, line 2"
    assert kept["ask", "chat"]["value"] == 0.25
    in_dialects = {name: set(models) for name, models in found["dialects"].items()}
    assert in_dialects == {
        "token_stream": {"TokenStreamRequest"},
        "chat.completions": {"ChatCompletionRequest"},
        "completions": {"CompletionRequest"},
        "responses": {"ResponsesRequest"},
        "messages": {"MessagesRequest"},
        # Nothing is drawn there.
        **{name: set[str]() for name in ("embeddings", "rerank", "tokenize", "embed")},
        # Refused there, with the advice to say it in `options`.
        "ollama": {"ChatRequest", "GenerateRequest"},
        "options": {"OllamaOptions"},
    }
    assert found["remote"]["warmth"] == 0.75
