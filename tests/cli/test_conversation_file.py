"""`/save` and `/load`: a conversation as a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmstream_cli.api import FinishReason
from llmstream_cli.cli.chat_commands import run_command
from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.conversation_file import load, save
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.history.records import Turn
from llmstream_cli.history.store import History
from tests.cli.talks import talking
from tests.server.fakes import FakeEngine

TURNS = [
    Turn(role="user", content="Grüße\n🙂"),
    Turn(
        role="assistant",
        content="hm",
        reasoning="well",
        model="tiny",
        finish_reason=FinishReason.STOP,
    ),
]


def contents(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


@pytest.mark.parametrize("system", [None, "be brief"])
def test_what_is_saved_can_be_loaded(tmp_path: Path, system: str | None) -> None:
    conversation = Conversation(system, [*TURNS])
    path = save(conversation, str(tmp_path / "saved.json"), overwrite=False)
    loaded, same = load(str(path))
    assert same == path
    assert contents(loaded) == contents(conversation)
    assert [(turn.reasoning, turn.model) for turn in loaded.turns] == [("", ""), ("well", "tiny")]


def test_what_history_shows_can_be_loaded(tmp_path: Path) -> None:
    with History.open(tmp_path / "history.db") as history:
        session = history.begin("mine")
        for turn in (Turn(role="system", content="be brief"), *TURNS):
            history.append(session.id, turn)
    shown = subprocess.run(
        [sys.executable, "-m", "llmstream_cli", "history", "show", "mine", "--json"],
        env={**os.environ, "LLMSTREAM_HISTORY": str(tmp_path / "history.db")},
        capture_output=True,
        check=True,
    )
    (tmp_path / "shown.json").write_bytes(shown.stdout)
    loaded, _ = load(str(tmp_path / "shown.json"))
    assert contents(loaded) == contents(Conversation("be brief", TURNS))


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("mine")
    with pytest.raises(InvalidValueError, match="is there already"):
        save(Conversation(), str(path), overwrite=False)
    assert path.read_text() == "mine"
    with pytest.raises(InvalidValueError, match="No such file or directory"):
        save(Conversation(), str(tmp_path / "no" / "such"), overwrite=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no file .*"),
        (b"\xff", "is not UTF-8 text: byte 0"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "it has no list of turns"),
        (b'{"turns": {}}', "it has no list of turns"),
        (b'{"turns": [{"role": "user", "content": "hi"}, 7]}', "turn 2 has no role and content"),
        (b'{"turns": [{"role": "tool", "content": "hi"}]}', "turn 1 has no role"),
        (b'{"turns": [{"role": "user", "content": null}]}', "turn 1 has no role"),
    ],
)
def test_a_file_without_a_conversation_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidValueError, match=reason):
        load(str(path))


def test_the_commands_save_and_load(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "saved.json"
    with talking(FakeEngine()) as talk:
        for command in ("/save", "/load", "/load no/such"):
            with pytest.raises(InvalidValueError):
                run_command(talk, command)
        talk.ask("first")
        run_command(talk, f"/save {path}")
        talk.ask("second")
        run_command(talk, f"/save {path}")  # which is its own by now
        assert len(json.loads(path.read_text())["turns"]) == 4
        run_command(talk, "/clear")
        with pytest.raises(InvalidValueError, match="is there already"):
            run_command(talk, f"/save {path}")
        run_command(talk, f"/load {path}")
        assert [content for _, content in contents(talk.conversation)][::2] == ["first", "second"]
    assert "4 turns; /show messages shows them" in capfd.readouterr().err


def test_what_was_loaded_is_kept_with_what_follows(tmp_path: Path) -> None:
    saved = save(Conversation("be brief", TURNS), str(tmp_path / "saved.json"), overwrite=False)
    history = tmp_path / "history.db"
    with talking(FakeEngine(), history=history) as talk:
        talk.ask("first")
        run_command(talk, f"/load {saved}")
        talk.ask("second")
    with History.open(history) as kept:
        latest, before = kept.sessions()
        roles = [turn.role for turn in kept.turns(latest.id)]
        assert roles == ["system", "user", "assistant", "user", "assistant"]
        assert kept.turns(before.id)[0].content == "first"
