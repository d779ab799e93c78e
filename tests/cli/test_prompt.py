"""`--template`, `--raw` and `--context`, as a user gives them."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.prompts.contexts import CONTEXTS
from llmstream_cli.prompts.formats import ChatFormat, find_format
from tests.cli.conftest import Cli
from tests.cli.serve.test_serve import running
from tests.gguf_files import write_phi2

TIMEOUT = 300  # seconds; the machines that run this are slow at times
QUESTION = "Where is Paris?"
WAYS_OUT = (
    "phi2 has no chat template: name one with --template, or send it text to continue as it is "
    "(ask --raw, /v1/completions, /api/generate with raw)"
)


@pytest.fixture
def answer(cli: Cli) -> Callable[..., str]:
    """Ask, see that nothing is complained of, and return the answer."""

    def answer(*arguments: str, **options: Any) -> str:
        code, told, complaints = cli("ask", "-t", "0", "-n", "12", *arguments, **options)
        assert (code, complaints) == (0, "")
        return told

    return answer


@pytest.fixture
def phi2(tmp_path: Path) -> str:
    """A model without a chat template."""
    return str(write_phi2(tmp_path / "phi2.gguf"))


# ---- --template -----------------------------------------------------------------------------


def test_a_template_is_a_format_by_its_name_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chatml").write_text("the name wins over the file")
    assert read_template("ChatML") == find_format("chatml")
    assert read_template("./chatml") == ChatFormat("chatml", "the name wins over the file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{% if %}", "the chat template is invalid: Expected an expression"),
        (b"x" * (600 * 1024), "the chat template has 614400 characters; too many to run"),
        (b"x" * (1024 * 1024 + 1), "is longer than 1 MiB"),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "my.jinja"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=reason) as caught:
        read_template(str(path))
    assert "--template" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chatlm", "no prompt format is called 'chatlm'; did you mean chatml?"),
        ("none.jinja", "--template: there is no file none.jinja"),
        ("no/folder", "--template: there is no file no/folder"),
        ("x" * 5000, "no prompt format is called"),
        ("\0", "no prompt format is called"),
        ("", "the name of the file is empty"),
    ],
)
def test_what_is_neither_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        read_template(text)


def test_every_format_that_a_preset_names_is_there() -> None:
    named = {preset.chat_format for preset in PRESETS.values()} - {None}
    assert "puffin" in named
    for name in named:
        assert preset_format(name) == find_format(str(name))
    assert preset_format(None) is None


@pytest.mark.slow
def test_the_model_sees_what_the_template_writes(
    answer: Callable[..., str], tmp_path: Path, phi2: str
) -> None:
    path = tmp_path / "my.jinja"
    path.write_text("{{ messages[-1].content }} is in")
    expected = answer("--raw", "Paris is in")
    assert answer("Paris", "--template", str(path)) == expected
    assert answer("Paris") != expected
    expected = answer("--model", phi2, "--raw", "Instruct: the of\nOutput:")
    assert answer("--model", phi2, "--template", "instruct", "the of") == expected


def test_a_mistaken_template_shows_before_the_model_is_looked_for(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "my.jinja"
    path.write_text("{% if %}")
    code, told, complaint = cli("ask", "?", "--template", str(path), "--model", "none.gguf")
    assert (code, told, complaint.count("\n")) == (2, "", 1)
    assert complaint.startswith(f"llmstream: --template {path}: the chat template is invalid")


@pytest.mark.slow
def test_a_model_without_a_template_tells_the_ways_out(cli: Cli, phi2: str) -> None:
    assert cli("ask", "?", "--model", phi2) == (1, "", f"llmstream: {WAYS_OUT}\n")


# ---- --raw and --context --------------------------------------------------------------------


@pytest.mark.slow
def test_raw_text_is_continued_as_it_is(cli: Cli, answer: Callable[..., str]) -> None:
    chat = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert answer("--raw", stdin=chat.encode()) == answer("--template", "chatml", QUESTION)
    text = b"1. one\n2. two\n"
    assert answer("--raw", stdin=text) == answer("--raw", text.decode())
    assert answer("--raw", stdin=text) != answer("--raw", stdin=text.strip())
    complaint = "llmstream: there is no question; give one or pipe it to standard input\n"
    assert cli("ask", "--raw") == (2, "", complaint)


@pytest.mark.slow
def test_a_context_is_the_system_message_of_its_name(
    cli: Cli, answer: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[contexts]\npirate = 'You are a pirate.'\nsql = 'You know SQLite.'\n")
    own = {"LLMSTREAM_CONFIG": str(path)}
    for name, text, environment in (
        ("math", CONTEXTS["math"], {}),
        ("pirate", "You are a pirate.", own),
        ("sql", "You know SQLite.", own),  # the user's own win
    ):
        expected = answer("--system", text, QUESTION)
        assert answer("--context", name, QUESTION, **environment) == expected
    complaint = "llmstream: no context is called 'pirat'; did you mean pirate?\n"
    assert cli("ask", "--context", "pirat", QUESTION, **own) == (2, "", complaint)


def test_the_original_general_context_is_kept() -> None:
    assert CONTEXTS["general"] == (
        "You are an assistant that gives straight answers to given instructions"
    )


def test_a_mistake_in_the_configuration_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[contexts]\nsql = 5\n")
    complaint = f"llmstream: {path}, line 2: the context sql has to be text\n"
    for arguments in (("--context", "math", QUESTION), (QUESTION,)):
        assert cli("ask", *arguments, LLMSTREAM_CONFIG=str(path)) == (2, "", complaint)


# ---- serve ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_takes_both(tmp_path: Path, phi2: str) -> None:
    config, template = tmp_path / "my.toml", tmp_path / "my.jinja"
    config.write_text("[contexts]\nof = 'the of and'\n")
    template.write_text("{% for m in messages %}{{ m.content }};{% endfor %}")
    options = ("--model", phi2, "--template", str(template))
    asked = {"temperature": 0, "max_tokens": 8}
    with running(*options, LLMSTREAM_CONFIG=str(config)) as server:
        server.wait_until_ready()
        listed = httpx2.get(f"{server.url}/contexts").json()
        assert listed == {"contexts": ["general", "classifier", "sql", "math", "of"]}
        body = {"query": "to in", "context": "of", **asked}
        in_context = httpx2.post(f"{server.url}/token_stream", json=body, timeout=TIMEOUT)
        body = {"model": "phi2", "prompt": "the of and;to in;", **asked}
        raw = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=TIMEOUT).json()
        assert in_context.text == raw["choices"][0]["text"]
        shown = httpx2.post(f"{server.url}/api/show", json={"model": "phi2"}).json()
        assert shown["template"] == template.read_text()
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_served_model_without_a_template_tells_the_ways_out(phi2: str) -> None:
    with running("--model", phi2) as server:
        server.wait_until_ready()
        reply = httpx2.post(f"{server.url}/token_stream", json={"query": "?"}, timeout=TIMEOUT)
        assert (reply.status_code, reply.json()["error"]["message"]) == (400, WAYS_OUT)
        body = {"model": "phi2", "prompt": "the of", "raw": True, "stream": False}
        reply = httpx2.post(f"{server.url}/api/generate", json=body, timeout=TIMEOUT)
        assert reply.status_code == 200


def test_a_server_does_not_start_with_a_mistake(cli: Cli) -> None:
    code, told, complaint = cli("serve", "--port", "0", "--template", "chatlm")
    assert (code, told) == (2, "")
    assert "no prompt format is called 'chatlm'" in complaint
