"""`llmstream config show`, `path` and `edit`."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.cli.app import run
from llmstream_cli.models.presets import register_presets

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

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "folder" / "config.toml"
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(path))
    yield path
    register_presets([])


@pytest.fixture
def config(path: Path) -> Path:
    path.parent.mkdir()
    path.write_text(CONFIG)
    path.chmod(0o600)
    return path


def set_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let the user's editor do what the script says to the file `$2`."""
    program = tmp_path / "my editor"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"'{program}' --wait")


# ---- show -----------------------------------------------------------------------------------


def shown(capsys: Capture) -> dict[tuple[str, str], dict[str, Any]]:
    """The settings by their names and one of the commands that they are for."""
    assert run(["config", "show", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {
        (row["setting"], command): row
        for row in json.loads(out)["settings"]
        for command in row["commands"] or [""]
    }


def test_each_value_has_its_source(
    config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_THREADS", "3")
    settings = shown(capsys)
    for name, command, *expected in (
        ("features", "ask", "mine", "file", f"{config}, line 2"),
        ("max_tokens", "ask", 5, "file", f"{config}, line 3"),
        ("max_tokens", "bench", 64, "default", ""),
        ("threads", "ask", 3, "environment", "LLMSTREAM_THREADS"),
        ("temperature", "ask", 0.0, "preset", "mine"),
        ("ctx_size", "serve", 300, "preset", "mine"),
        ("ctx_size", "bench", None, "default", ""),
        ("top_p", "serve", 0.95, "default", ""),
        ("parallel", "serve", 3, "file", f"{config}, line 7"),
        ("host", "serve", "127.0.0.1", "default", ""),
        ("contexts.pirate", "", "You are\na pirate.", "file", f"{config}, line 10"),
        ("presets.mine", "", f"{config.parent}/m.gguf", "file", f"{config}, line 14"),
        ("history.enabled", "", False, "file", f"{config}, line 20"),
        ("history.path", "", None, "default", ""),
    ):
        row = settings[str(name), str(command)]
        assert [row["value"], row["source"], row["place"]] == expected, name


def test_what_nothing_means_is_told(
    path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_CONFIG", "")
    settings = shown(capsys)
    assert settings["features", "ask"]["value"] == "smollm2"
    assert settings["threads", "ask"]["value"] is None
    assert settings["threads", "ask"]["meaning"] == "one for each physical core"
    # SmolLM2's authors advise it.
    assert settings["top_p", "ask"]["value"] == 0.9
    assert settings["top_p", "ask"]["place"] == "smollm2"
    monkeypatch.setenv("LLMSTREAM_MODEL", "/my.gguf")  # of which nothing is known yet
    settings = shown(capsys)
    assert settings["features", "ask"]["value"] is None
    assert settings["top_p", "ask"]["source"] == "default"


def test_a_person_gets_a_table(config: Path, capsys: Capture) -> None:
    assert run(["config", "show"]) == 0
    out, err = capsys.readouterr()
    head, empty, titles, *rows = out.splitlines()
    assert (head, empty, err) == (str(config), "", "")
    assert titles.split() == ["setting", "commands", "value", "from"]
    assert "ask, chat, embed, serve, bench  mine" in out
    assert all(len(row) <= 120 for row in rows)
    assert '"You are\\na pirate."' in out


def test_keys_are_not_printed(
    config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTREAM_API_KEY", "open")
    for words in (["show"], ["show", "--json"]):
        assert run(["config", *words]) == 0
        out = capsys.readouterr().out
        assert "(a secret)" in out
        assert "sesame" not in out
        assert '"open"' not in out
    config.chmod(0o644)
    run(["config", "show"])
    assert f"others can read it: chmod 600 {config}\n" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["config show", "models list", "models show smollm2", "ask -h"])
def test_an_unknown_variable_is_told_by_every_command_and_does_no_harm(
    config: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LLMSTREAM_TEMPRATURE", "1")
    assert run(command.split()) == 0
    assert capsys.readouterr().err == (
        "llmstream: LLMSTREAM_TEMPRATURE is no setting; did you mean LLMSTREAM_TEMPERATURE?\n"
    )


def test_what_is_wrong_is_one_line(config: Path, capsys: Capture) -> None:
    config.write_text(CONFIG.replace("parallel = 3", "parallel = 0"))
    assert run(["config", "show"]) == 2
    expected = f"llmstream: {config}, line 7: parallel must be between 1 and 256\n"
    assert capsys.readouterr() == ("", expected)


# ---- path and edit --------------------------------------------------------------------------


def test_path_is_where_the_file_would_be(
    path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["config", "path"]) == 0
    assert capsys.readouterr() == (f"{path}\n", "")
    monkeypatch.setenv("LLMSTREAM_CONFIG", "")
    assert run(["config", "path"]) == 2
    assert "LLMSTREAM_CONFIG is set and empty" in capsys.readouterr().err


def test_edit_makes_a_private_file_of_comments(
    path: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_editor(tmp_path, monkeypatch, "true")
    assert run(["config", "edit"]) == 0
    assert capsys.readouterr() == ("", f"{path} is in order\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert all(row["source"] != "file" for row in shown(capsys).values())
    # Every line of it is right when it is no comment.
    set_editor(tmp_path, monkeypatch, "sed -i -e '1d' -e 's/^# //' \"$2\"")
    assert run(["config", "edit"]) == 0
    capsys.readouterr()
    assert [row["value"] for row in shown(capsys).values() if row["source"] == "file"] == [
        *("smollm2", "smollm2", "smollm2", "smollm2", "smollm2", 0.2, 0.2, 0.2, True),
        "You review Python code. Name the worst problem first.",
        "user/repository/model-Q4_K_M.gguf",
    ]


@pytest.mark.parametrize(
    ("script", "code", "complaint"),
    [
        ("echo '[serv]' > \"$2\"", 2, "line 1: there is no table 'serv'; did you mean serve?"),
        ("exit 1", 1, "failed with exit code 1"),
    ],
)
def test_edit_tells_what_is_wrong_in_one_line(
    config: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    code: int,
    complaint: str,
) -> None:
    set_editor(tmp_path, monkeypatch, script)
    assert run(["config", "edit"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMSTREAM_CONFIG", str(tmp_path / "file" / "config.toml"))
    assert run(["config", "edit"]) == 2
    assert capsys.readouterr().err.startswith("llmstream: cannot make ")


def test_without_a_command_it_helps(capsys: Capture) -> None:
    assert run(["config"]) == 0
    assert "show" in capsys.readouterr().out
