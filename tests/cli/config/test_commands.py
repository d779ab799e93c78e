"""`llmstream config show`, `path` and `edit`, as a user runs them."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

TIMEOUT = 300  # seconds; the machines that run this are slow at times

CONFIG = """\
[defaults]
features = "mine"
max_tokens = 5

[serve]
api_key = "sesame"
parallel = 3

[contexts]
pirate = '''
You are
a pirate.'''

[presets.mine]
path = "m.gguf"
ctx_size = 300
sampling = { temperature = 0.0 }

[history]
enabled = false
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "folder" / "config.toml"
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    return path


@pytest.fixture
def config(path: Path) -> Path:
    path.parent.mkdir()
    path.write_text(CONFIG)
    path.chmod(0o600)
    return path


def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "config", *words],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


def editor(tmp_path: Path, script: str) -> str:
    """An editor that does what the script says to the file `$1`."""
    program = tmp_path / "my editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"'{program}' --wait"


# ---- show -----------------------------------------------------------------------------------


def shown(**environment: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The settings by their names and one of the commands that they are for."""
    done = run("show", "--json", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    settings = json.loads(done.stdout)["settings"]
    return {
        (row["setting"], command): row for row in settings for command in row["commands"] or [""]
    }


def test_each_value_has_its_source(config: Path) -> None:
    settings = shown(LLMSTREAM_THREADS="3")

    def of(name: str, command: str = "ask") -> tuple[Any, str, str]:
        row = settings[name, command]
        return row["value"], row["source"], row["place"]

    assert of("features") == ("mine", "file", f"{config}, line 2")
    assert of("max_tokens") == (5, "file", f"{config}, line 3")
    assert of("max_tokens", "bench") == (64, "default", "")
    assert of("threads") == (3, "environment", "LLMSTREAM_THREADS")
    assert of("temperature") == (0.0, "preset", "mine")
    assert of("ctx_size", "serve") == (300, "preset", "mine")
    assert of("top_p", "serve") == (0.95, "default", "")
    assert of("parallel", "serve") == (3, "file", f"{config}, line 7")
    assert of("host", "serve") == ("127.0.0.1", "default", "")
    assert of("contexts.pirate", "") == ("You are\na pirate.", "file", f"{config}, line 10")
    assert of("presets.mine", "") == (
        str(config.parent / "m.gguf"),
        "file",
        f"{config}, line 14",
    )
    assert of("history.enabled", "") == (False, "file", f"{config}, line 20")
    assert of("history.path", "") == (None, "default", "")


def test_what_nothing_means_is_told(path: Path) -> None:
    settings = shown(LLMSTREAM_CONFIG="")
    assert settings["features", "ask"]["value"] == "smollm2"
    assert settings["threads", "ask"]["value"] is None
    assert settings["threads", "ask"]["meaning"] == "one for each physical core"
    # SmolLM2's authors advise it.
    assert settings["top_p", "ask"]["value"] == 0.9
    assert settings["top_p", "ask"]["place"] == "smollm2"


def test_a_models_file_leaves_open_what_is_advised(path: Path) -> None:
    settings = shown(LLMSTREAM_CONFIG="", LLMSTREAM_MODEL="/my.gguf")
    assert settings["features", "ask"]["value"] is None
    assert settings["top_p", "ask"]["source"] == "default"


def test_a_person_gets_a_table(config: Path) -> None:
    done = run("show")
    head, empty, titles, *rows = done.stdout.splitlines()
    assert (head, empty) == (str(config), "")
    assert titles.split() == ["setting", "commands", "value", "from"]
    assert "features         ask, chat, serve, bench  mine" in done.stdout
    assert all(len(row) <= 120 for row in rows)
    assert '"You are\\na pirate."' in done.stdout
    assert done.stderr == ""


def test_keys_are_not_printed(config: Path) -> None:
    for words in (["show"], ["show", "--json"]):
        done = run(*words, LLMSTREAM_API_KEY="open")
        assert "(a secret)" in done.stdout
        assert "sesame" not in done.stdout
        assert '"open"' not in done.stdout
    config.chmod(0o644)
    assert run("show").stderr == (
        f"llmstream: {config} has an api_key and others can read it: chmod 600 {config}\n"
    )


def test_an_unknown_variable_is_told_and_does_no_harm(config: Path) -> None:
    done = run("show", LLMSTREAM_TEMPRATURE="1")
    assert done.stderr == (
        "llmstream: LLMSTREAM_TEMPRATURE is no setting; did you mean LLMSTREAM_TEMPERATURE?\n"
    )
    assert done.returncode == 0


def test_what_is_wrong_is_one_line(config: Path) -> None:
    config.write_text(CONFIG.replace("parallel = 3", "parallel = 0"))
    done = run("show")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"llmstream: {config}, line 7: parallel must be between 1 and 256\n"


# ---- path -----------------------------------------------------------------------------------


def test_path_is_where_the_file_would_be(path: Path) -> None:
    assert run("path").stdout == f"{path}\n"
    done = run("path", LLMSTREAM_CONFIG="")
    assert (done.returncode, done.stdout) == (2, "")
    assert "LLMSTREAM_CONFIG is set and empty" in done.stderr


# ---- edit -----------------------------------------------------------------------------------


def test_edit_makes_a_file_that_says_nothing_and_nobody_else_can_read(
    path: Path, tmp_path: Path
) -> None:
    done = run("edit", VISUAL=editor(tmp_path, 'echo edited; cat "$2"'))
    assert done.returncode == 0
    assert done.stdout.startswith("edited\n# What llmstream shall do")
    assert done.stderr == f"{path} is in order\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(row["source"] != "file" for row in shown().values())


def test_what_the_example_shows_can_be_said(path: Path, tmp_path: Path) -> None:
    """Every line of the file that `edit` makes is right when it is no comment."""
    uncomment = "sed -i -e '1d' -e 's/^# //' \"$2\""
    done = run("edit", EDITOR=editor(tmp_path, uncomment), VISUAL="")
    assert (done.returncode, done.stderr) == (0, f"{path} is in order\n")
    assert [row["value"] for row in shown().values() if row["source"] == "file"] == [
        *("smollm2", "smollm2", "smollm2", "smollm2", 0.2, 0.2, 0.2, True),
        "You review Python code. Name the worst problem first.",
        "user/repository/model-Q4_K_M.gguf",
    ]


def test_edit_checks_what_was_written(config: Path, tmp_path: Path) -> None:
    done = run("edit", VISUAL=editor(tmp_path, "echo '[serv]' > \"$2\""))
    assert done.returncode == 2
    assert done.stderr == (
        f"llmstream: {config}, line 1: there is no table 'serv'; did you mean serve?\n"
    )


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("/no/such/editor", "cannot run the editor /no/such/editor: No such file or directory"),
        ("false", "the editor false failed with exit code 1"),
        ("'", "cannot run the editor ': No closing quotation"),
    ],
)
def test_an_editor_that_fails_is_one_line(config: Path, program: str, complaint: str) -> None:
    done = run("edit", VISUAL=program)
    assert done.returncode == 2
    assert done.stderr.startswith(f"llmstream: {complaint}")
    assert done.stderr.count("\n") == 1
    assert config.read_text() == CONFIG


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "config.toml")
    done = run("edit", LLMSTREAM_CONFIG=path, VISUAL="true")
    assert done.returncode == 2
    assert done.stderr.startswith("llmstream: cannot make ")


def test_ctrl_c_is_the_editors(config: Path, tmp_path: Path) -> None:
    wait = "trap 'echo interrupted; exit 0' INT; echo waiting; while :; do sleep 0.1; done"
    child = pexpect.spawn(
        sys.executable,
        ["-m", "llmstream_cli", "config", "edit"],
        env={**os.environ, "VISUAL": editor(tmp_path, wait)},
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    child.expect_exact("waiting")
    child.sendintr()
    child.expect_exact("interrupted")
    child.expect_exact("is in order")
    child.expect_exact(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_without_a_command_it_helps() -> None:
    assert "show" in run().stdout
