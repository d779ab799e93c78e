"""Completion: what is offered, and that shells offer it at a press of the Tab key."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from llmstream_cli.cli import options
from llmstream_cli.cli.app import run
from llmstream_cli.models.presets import PRESETS

SHELLS = ["bash", "zsh", "fish"]
SECONDS = 120

# With its prompt the shell is ready; a word at the end of a line shows that Tab has been answered.
READY = "ready> "
START = {
    "bash": ["--norc", "--noprofile"],
    "zsh": ["-f"],
    "fish": ["--no-config"],
}
SET_UP = {
    "bash": f"PS1='{READY}'; bind 'set enable-bracketed-paste off'; source {{script}}",
    "zsh": f"PS1='{READY}'; unsetopt zle_bracketed_paste; autoload -Uz compinit; "
    "compinit -u -d {folder}/dump; source {script}",
    "fish": f"function fish_prompt; echo -n '{READY}'; end; "
    "set -g fish_autosuggestion_enabled 0; source {script}",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file with names of the user's own."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[contexts]\nzzz-pirate = "Arr."\n[presets.zzz-own]\npath = "model.gguf"\n', "utf-8"
    )
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    return path


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in a Hugging Face cache, by the name that is offered for it."""
    snapshot = tmp_path / "hub" / "models--zzz--repo" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "zzz-Q8_0.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return "zzz/repo/zzz-Q8_0.gguf"


# ---- what is offered ------------------------------------------------------------------------


def test_names_are_ours_and_the_users_own(config: Path, cached: str) -> None:
    contexts = ["general", "classifier", "sql", "math"]
    assert options.preset_names() == [*PRESETS, "zzz-own"]
    assert options.model_names() == [*PRESETS, "zzz-own", cached]
    assert options.cached_names() == [cached]
    assert options.context_names() == [*contexts, "zzz-pirate"]
    assert "chatml" in options.template_names()
    config.write_text("broken")
    assert (options.preset_names(), options.context_names()) == ([*PRESETS], contexts)


def offered(monkeypatch: pytest.MonkeyPatch, words: str) -> str:
    """Ask as bash does."""
    split = words.split(" ")
    monkeypatch.setenv("_LLMSTREAM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(split))
    monkeypatch.setenv("COMP_CWORD", str(len(split) - 1))
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        assert run([]) == 0
    assert stderr.getvalue() == ""
    return stdout.getvalue()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("llmstream ask -f smol", "smollm2"),
        ("llmstream ask --model zzz", "zzz-own"),
        ("llmstream serve --template chat", "chatml"),
        ("llmstream ask --context zzz", "zzz-pirate"),
        ("llmstream models show smol", "smollm2"),
        ("llmstream models remove zzz", "zzz/repo/zzz-Q8_0.gguf"),
        ("llmstream conf", "config"),
        ("llmstream serve --drai", "--drain"),
        ("llmstream ask --model ./", ""),
        ("llmstream serve --certfile ", ""),
    ],
)
def test_each_word_gets_its_names(
    config: Path, cached: str, monkeypatch: pytest.MonkeyPatch, words: str, first: str
) -> None:
    assert offered(monkeypatch, words).partition("\n")[0] == first
    config.write_text("broken")  # which says nothing into the user's line
    assert "zzz-pirate" not in offered(monkeypatch, words)


@pytest.mark.slow
def test_nothing_slow_is_imported(config: Path, cached: str) -> None:
    script = (
        "import sys\n"
        "from llmstream_cli.cli import app, options\n"
        "options.model_names(), options.context_names(), options.template_names()\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    slow = {"llama_cpp", "huggingface_hub", "numpy", "pydantic", "quart", "jinja2", "rich"}
    assert not slow & set(done.stdout.decode().split())


# ---- shells ---------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A folder with the command, as an installation puts it on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "llmstream"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmstream_cli "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.fixture(params=SHELLS)
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, command: Path, config: Path, cached: str
) -> Iterator["pexpect.spawn[str]"]:
    """A shell at its prompt, which has read the script for completion."""
    name = request.param
    program = shutil.which(name)
    assert program is not None, f"the tests need {name}"
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{command}:{os.environ['PATH']}",
        "TERM": "dumb" if name != "fish" else "xterm",
    }
    script = tmp_path / f"completion.{name}"
    source = {**environment, "_LLMSTREAM_COMPLETE": f"source_{name}"}
    script.write_bytes(subprocess.check_output([command / "llmstream"], env=source))
    child = pexpect.spawn(
        program,
        START[name],
        env=environment,
        cwd=tmp_path,
        encoding="utf-8",
        timeout=SECONDS,
        dimensions=(24, 200),
    )
    child.sendline(SET_UP[name].format(script=script, folder=tmp_path))
    child.expect_exact(READY)
    child.sendline("echo set-up-is-$((40 + 2))" if name != "fish" else "echo set-up-is-(math 42)")
    child.expect_exact("set-up-is-42")
    child.expect_exact(READY)
    yield child
    child.close(force=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("llmstream ask --context zzz-", "zzz-pirate"),
        ("llmstream ask --features zzz-", "zzz-own"),
        ("llmstream ask --model zzz/", "zzz/repo/zzz-Q8_0.gguf"),
        ("llmstream serve --certfile hub-certif", "hub-certificate.pem"),
    ],
)
def test_shells_complete(
    shell: "pexpect.spawn[str]", tmp_path: Path, typed: str, completed: str
) -> None:
    (tmp_path / "hub-certificate.pem").touch()
    shell.send(f"{typed}\t")
    shell.expect_exact(completed[len(typed.rpartition(" ")[2]) :])
