"""A question that is written in an editor: scripted ones, in place of the user's."""

import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pexpect
import pytest

from llmstream_cli.cli.ask.editor import edited, editor_command
from llmstream_cli.errors import EditorError

TIMEOUT = 300  # seconds; the machines that run this are slow at times

PROGRAM = """
import sys
from llmstream_cli.cli.ask.editor import edited
from llmstream_cli.cli.process import leave_on_interrupt
leave_on_interrupt()
with edited("draft") as text:
    print("asked:", text)
print("done")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the drafts lie, and nothing else."""
    folder = tmp_path / "drafts"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("VISUAL", raising=False)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Make a shell script the editor; `$1` is the file."""
    path = tmp_path / "an editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"'{path}'")


def drafts(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.iterdir()]


def test_the_editor_finds_the_draft_and_its_text_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    use(monkeypatch, tmp_path, 'printf "draft\\nand Grüße \\n\\n" > "$1.new"; mv "$1.new" "$1"')
    before = signal.getsignal(signal.SIGINT)
    with edited("draft") as text:
        assert text == "draft\nand Grüße"
        assert signal.getsignal(signal.SIGINT) is before
        (file,) = folder.iterdir()
        assert file.suffix == ".md"
    assert drafts(folder) == []


def test_an_answer_that_fails_keeps_the_question(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, tmp_path, 'echo question > "$1"')
    with pytest.raises(ZeroDivisionError), edited(""):
        raise ZeroDivisionError
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == "question\n"
    assert capsys.readouterr().err == f"the question is kept in {file}\n"


@pytest.mark.parametrize("left", ["", " \\n\\n", "\\357\\273\\277"])
def test_no_text_is_no_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, left: str
) -> None:
    use(monkeypatch, tmp_path, f'printf "{left}" > "$1"')
    with pytest.raises(EditorError, match="the editor left no text"), edited("draft"):
        pytest.fail("nothing should be asked")
    assert drafts(folder) == []


@pytest.mark.parametrize(
    ("script", "complaint", "kept"),
    [
        ('echo half > "$1"; exit 3', "failed with exit code 3", ["half\n"]),
        ('rm "$1"', "there is no file ", []),
        ('printf "\\377" > "$1"', "is not UTF-8 text: byte 0", ["\ufffd"]),
    ],
)
def test_an_editor_that_fails(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    script: str,
    complaint: str,
    kept: list[str],
) -> None:
    use(monkeypatch, tmp_path, script)
    with pytest.raises(EditorError, match=complaint), edited("draft"):
        pytest.fail("nothing should be asked")
    assert drafts(folder) == kept
    assert ("is kept in" in capsys.readouterr().err) is bool(kept)


@pytest.mark.parametrize("editor", ["/no/such/editor", "/dev/null"])
def test_an_editor_that_is_none(monkeypatch: pytest.MonkeyPatch, folder: Path, editor: str) -> None:
    monkeypatch.setenv("EDITOR", editor)
    with pytest.raises(EditorError, match=f"cannot run the editor {editor}: "), edited("draft"):
        pytest.fail("nothing should be asked")
    assert drafts(folder) == ["draft"]


@pytest.mark.parametrize(
    ("visual", "editor", "command"),
    [
        ("code --wait", "nano", ["code", "--wait"]),
        (None, "'/opt/my editor/bin' -n", ["/opt/my editor/bin", "-n"]),
        ("", "", ["vi"]),
        (None, "  ", ["vi"]),
    ],
)
def test_which_editor(
    monkeypatch: pytest.MonkeyPatch, visual: str | None, editor: str, command: list[str]
) -> None:
    monkeypatch.setenv("EDITOR", editor)
    if visual is not None:
        monkeypatch.setenv("VISUAL", visual)
    assert editor_command() == command
    monkeypatch.setenv("VISUAL", "vi '")
    with pytest.raises(EditorError, match="cannot understand the editor"):
        editor_command()


# ---- on a terminal --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_editor_on_a_terminal(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("EDITOR", "vi")
    monkeypatch.setenv("TERM", "xterm")
    child = pexpect.spawn(
        sys.executable, ["-c", PROGRAM], timeout=TIMEOUT, encoding="utf-8", dimensions=(24, 80)
    )
    child.expect_exact("draft")
    child.send("ccWhere is Paris?\x1b:wq\r")
    child.expect_exact("asked: Where is Paris?")
    child.expect_exact("done")
    child.expect(pexpect.EOF)
    child.close()
    assert drafts(folder) == []


@pytest.mark.slow
def test_the_editor_gets_the_terminal_behind_a_pipe_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, tmp_path, 'echo ready; read line; echo "$line" > "$1"')
    command = '"$0" -c "$1" < /dev/null > "$2"'
    output = tmp_path / "output"
    child = pexpect.spawn(
        "sh",
        ["-c", command, sys.executable, PROGRAM, str(output)],
        timeout=TIMEOUT,
        encoding="utf-8",
    )
    child.expect_exact("ready")
    child.sendline("typed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert output.read_text() == "asked: typed\ndone\n"


@pytest.mark.slow
def test_without_a_terminal_an_editor_can_do_its_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, tmp_path, 'echo noise; cat; echo text > "$1"')
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout == b"asked: text\ndone\n"


@pytest.mark.slow
def test_ctrl_c_is_a_key_of_the_editors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, tmp_path, 'trap "echo caught > \\"$1\\"; exit 0" INT; echo ready; sleep 100')
    child = pexpect.spawn(sys.executable, ["-c", PROGRAM], timeout=TIMEOUT, encoding="utf-8")
    child.expect_exact("ready")
    child.sendintr()
    child.expect_exact("asked: caught")
    child.expect_exact("done")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
