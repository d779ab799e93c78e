"""`--template`, `--raw` and `--context`, as a user gives them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.prompts.contexts import CONTEXTS
from llmstream_cli.prompts.formats import ChatFormat, find_format
from tests.cli.serve.test_serve import running
from tests.gguf_files import write_phi2

TIMEOUT = 300  # seconds; the machines that run this are slow at times
QUESTION = "Where is Paris?"


def ask(
    *arguments: str, stdin: bytes = b"", config: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "llmstream_cli", "ask", "-t", "0", "-n", "12"]
    return subprocess.run(
        [*command, "--threads", "1", *arguments],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env=os.environ if config is None else {**os.environ, "LLMSTREAM_CONFIG": str(config)},
    )


def answer(*arguments: str, stdin: bytes = b"", config: Path | None = None) -> bytes:
    done = ask(*arguments, stdin=stdin, config=config)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def refusal(*arguments: str, code: int = 2, config: Path | None = None) -> str:
    done = ask(*arguments, config=config)
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("llmstream: ")


@pytest.fixture
def phi2(tmp_path: Path) -> str:
    """A model without a chat template."""
    return str(write_phi2(tmp_path / "phi2.gguf"))


# ---- --template -----------------------------------------------------------------------------


def test_a_template_is_a_format_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chatml").write_text("the name wins over the file")
    assert read_template("ChatML") == find_format("chatml")
    assert read_template("./chatml") == ChatFormat("chatml", "the name wins over the file")


def test_a_template_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "my.jinja").write_bytes(b"\xef\xbb\xbf{{ messages[0].content }}")
    expected = ChatFormat("my.jinja", "{{ messages[0].content }}")
    assert read_template(str(tmp_path / "my.jinja")) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{% if %}", "the chat template is invalid: Expected an expression"),
        (b"{{ \xff }}", "is not UTF-8 text: byte 3"),
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


def test_the_model_sees_what_the_template_writes(tmp_path: Path) -> None:
    path = tmp_path / "my.jinja"
    path.write_text("{{ messages[-1].content }} is in")
    expected = answer("--raw", "Paris is in")
    assert answer("Paris", "--template", str(path)) == expected
    assert answer("Paris") != expected


def test_a_model_without_a_template_answers_in_a_format(phi2: str) -> None:
    expected = answer("--model", phi2, "--raw", "Instruct: the of\nOutput:")
    assert answer("--model", phi2, "--template", "instruct", "the of") == expected


def test_a_mistaken_template_shows_before_the_model_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "my.jinja"
    path.write_text("{% if %}")
    message = refusal("?", "--template", str(path), "--model", "none.gguf")
    assert message.startswith(f"--template {path}: the chat template is invalid")
    message = refusal("?", "--template", "chatlm", "--model", "none.gguf")
    assert message.startswith("no prompt format is called 'chatlm'; did you mean chatml?")


def test_a_model_without_a_template_tells_the_ways_out(phi2: str) -> None:
    assert refusal("?", "--model", phi2, code=1) == (
        "phi2 has no chat template: name one with --template, or send it text to continue as it is "
        "(ask --raw, /v1/completions, /api/generate with raw)"
    )


# ---- --raw ----------------------------------------------------------------------------------


def test_raw_text_is_continued_as_it_is() -> None:
    chat = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    assert answer("--raw", stdin=chat.encode()) == answer("--template", "chatml", QUESTION)


def test_raw_text_keeps_its_white_space() -> None:
    text = b"1. one\n2. two\n"
    assert answer("--raw", stdin=text) == answer("--raw", text.decode())
    assert answer("--raw", stdin=text) != answer("--raw", stdin=text.strip())


@pytest.mark.parametrize(
    "option", [("--system", "x"), ("--context", "sql"), ("--template", "chatml")]
)
def test_raw_text_has_no_place_for_anything_else(option: tuple[str, str]) -> None:
    assert refusal("x", "--raw", *option) == (
        "--raw leaves no place for --system, --context or --template; write the prompt out"
    )


def test_raw_text_is_needed() -> None:
    assert refusal("--raw") == "there is no question; give one or pipe it to standard input"


# ---- --context ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_is_the_system_message_of_its_name(name: str) -> None:
    assert answer("--context", name, QUESTION) == answer("--system", CONTEXTS[name], QUESTION)


def test_the_original_general_context_is_kept() -> None:
    assert CONTEXTS["general"] == (
        "You are an assistant that gives straight answers to given instructions"
    )


def test_the_users_own_contexts_are_read_and_win(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[contexts]\npirate = 'You are a pirate.'\nsql = 'You know SQLite.'\n")
    for name, text in (("pirate", "You are a pirate."), ("sql", "You know SQLite.")):
        expected = answer("--system", text, QUESTION)
        assert answer("--context", name, QUESTION, config=path) == expected
    message = refusal("--context", "pirat", QUESTION, config=path)
    assert message == "no context is called 'pirat'; did you mean pirate?"


def test_a_context_and_a_system_message_exclude_each_other() -> None:
    message = refusal("--context", "sql", "--system", "x", QUESTION)
    assert message == "--system and --context both give the system message"


def test_a_mistake_in_the_configuration_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[contexts]\nsql = 5\n")
    for arguments in (("--context", "math", QUESTION), (QUESTION,)):
        message = refusal(*arguments, config=path)
        assert message == f"{path}, line 2: the context sql has to be text"


# ---- serve ----------------------------------------------------------------------------------


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


def test_a_served_model_without_a_template_tells_the_ways_out(phi2: str) -> None:
    with running("--model", phi2) as server:
        server.wait_until_ready()
        reply = httpx2.post(f"{server.url}/token_stream", json={"query": "?"}, timeout=TIMEOUT)
        assert reply.status_code == 400
        assert "/v1/completions" in reply.json()["error"]["message"]
        body = json.dumps({"model": "phi2", "prompt": "the of", "raw": True, "stream": False})
        reply = httpx2.post(f"{server.url}/api/generate", content=body, timeout=TIMEOUT)
        assert reply.status_code == 200


@pytest.mark.parametrize(
    ("options", "environment", "reason"),
    [
        (("--template", "chatlm"), {}, "no prompt format is called 'chatlm'"),
        ((), {"LLMSTREAM_CONFIG": "/none.toml"}, "LLMSTREAM_CONFIG names /none.toml"),
    ],
)
def test_a_server_does_not_start_with_a_mistake(
    options: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "serve", "--port", "0", *options],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 2
    assert reason in done.stderr.decode()
    assert done.stdout == b""
