"""Homes that are none, locales without UTF-8: what works all the same, and what is said."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.ask.test_ask import COMMAND, TIMEOUT

pytestmark = pytest.mark.slow

LOCKED = "locked"  # a home that may not be entered
UNKNOWN = "unknown"  # neither HOME nor an entry in the list of users
NO_PATHS = ["", "~", "here"]  # for which the list of users is asked

COMMANDS = {
    "models list": 0,
    "models remove user/repo --yes": 1,
    "history list": None,
    "config show": 0,
    "ask hi -m user/repo": 1,
    "ask hi --continue": 1,
    "serve --api-key-file nowhere": 1,
}
"""Commands, and the exit codes that they have in any home; None is 0 or 1."""

_DROP = "-dac_override,-dac_read_search"  # without these even root has to obey a file's mode
_AS_UNKNOWN = (
    "import pwd, sys\n"
    "def unknown(_): raise KeyError\n"
    "pwd.getpwuid = unknown\n"
    "sys.argv[0] = 'llmstream'\n"
    "from llmstream_cli.__main__ import main\n"
    "main()"
)


def run(home: str, tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in an empty folder, in a home of that kind, with nothing kept elsewhere."""
    command = [*COMMAND, *words]
    dropped = {"LLMSTREAM_CONFIG", "LLMSTREAM_CACHE", "HF_HOME", "HOME"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith("XDG_")
    }
    environment = {**kept, "HOME": home, "HF_HUB_OFFLINE": "1", "LLMSTREAM_THREADS": "1"}
    if home in NO_PATHS:  # that home is the home of whoever runs the tests
        environment["LLMSTREAM_HISTORY"] = "off"
    if home == UNKNOWN:
        del environment["HOME"]
        command = [sys.executable, "-c", _AS_UNKNOWN, *words]
    if home == LOCKED:
        (tmp_path / LOCKED).mkdir()
        environment["HOME"] = str(tmp_path / LOCKED / "me")
        (tmp_path / LOCKED).chmod(0)
        if os.geteuid() == 0:
            setpriv = shutil.which("setpriv")
            assert setpriv is not None
            command = [setpriv, f"--bounding-set={_DROP}", f"--inh-caps={_DROP}", *command]
    folder = tmp_path / "folder"
    folder.mkdir()
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        if home == LOCKED:
            (tmp_path / LOCKED).chmod(0o700)
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []
    return done


@pytest.mark.parametrize("home", [UNKNOWN, LOCKED, "/dev/null"])
@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_goes_on_without_a_home(home: str, words: str, tmp_path: Path) -> None:
    done = run(home, tmp_path, *words.split())
    code = COMMANDS[words]
    assert done.returncode in ({0, 1} if code is None else {code}), done.stderr
    complaints = done.stderr.splitlines()
    warnings = [line for line in complaints if line.endswith("; going on without it")]
    assert len(warnings) <= 1
    assert len(complaints) - len(warnings) <= 1


@pytest.mark.parametrize("home", [UNKNOWN, LOCKED, "/dev/null", *NO_PATHS])
def test_an_answer_needs_no_home(home: str, tmp_path: Path) -> None:
    done = run(home, tmp_path, "ask", "Where is Paris?", "-t", "0", "-n", "2")
    assert (done.returncode, done.stdout) == (0, "Paris is")
    assert len(done.stderr.splitlines()) <= 1
    if home in {UNKNOWN, "/dev/null"}:
        assert done.stderr == ""


@pytest.mark.parametrize("name", ["CONFIG", "DATA", "STATE", "CACHE"])
def test_an_answer_needs_no_folder_of_the_system(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"XDG_{name}_HOME", "/dev/null")
    done = in_c_locale("ask", "Where is Paris?", "-t", "0", "-n", "2", HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Paris is", b"")


# ---- locales --------------------------------------------------------------------------------


def in_c_locale(*words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, *words],
        env={
            **os.environ,
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "LC_ALL": "C",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_all_texts_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    """Those of variables and of files, and the names of files."""
    path = tmp_path / "größe.toml"
    path.write_text('[ask]\nsystem = "Grüß Gott"\n', "utf-8")
    done = in_c_locale("config", "show", "--json", LLMSTREAM_CONFIG=str(path), LLMSTREAM_STOP="é")
    report = json.loads(done.stdout.decode("utf-8"))
    values = {row["setting"]: row["value"] for row in report["settings"]}
    assert report["path"] == str(path)
    assert (values["stop"], values["system"]) != (None, None)
    assert "é" in [row["value"] for row in report["settings"]]
    assert "Grüß Gott" in [row["value"] for row in report["settings"]]


@pytest.mark.parametrize(
    "options",
    [
        ("--grammar", 'root ::= "é"'),
        ("--schema", '{"const": "é"}'),
        ("--raw", "--schema", '{"enum": ["é"]}'),
    ],
)
def test_options_are_utf_8_in_any_locale(options: tuple[str, ...]) -> None:
    done = in_c_locale("ask", "é", "-n", "8", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip('"') == "é"


def test_a_file_has_the_name_that_its_bytes_are_in_any_locale(tmp_path: Path) -> None:
    path = tmp_path / "é.jinja"
    path.write_text("{{ messages[0].content }}", "utf-8")
    done = in_c_locale("ask", "é", "--template", str(path), "--count")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")
