"""`llmstream chat` on a terminal: keys in, a screen out, the real model."""

import re
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.ask.test_ask import PARIS
from tests.cli.terminals import ALT_ENTER, CTRL_C, CTRL_D, ENTER, Terminal, terminal

pytestmark = pytest.mark.slow

CHAT = ("chat", "-t", "0")


def ask_and_leave(chat: Terminal, seen: str = "in the world.") -> None:
    chat.wait_for(">>>")
    chat.send("Where is Paris?" + ENTER)
    chat.wait_for(seen, 2 if seen == ">>>" else 1)
    chat.wait_until_edited()
    chat.send(CTRL_D)
    assert chat.end() == 0


@pytest.fixture(scope="module")
def shared() -> Iterator[Terminal]:
    """One chat for all tests that leave it as it was: with an empty line to edit."""
    with terminal(*CHAT, "-n", "17", columns=100, lines=40) as chat:
        chat.wait_for(">>>")
        yield chat


@pytest.fixture
def chat(shared: Terminal) -> Iterator[Terminal]:
    shared.send("/clear" + ENTER)
    told = shared.text.count("a new conversation")
    shared.wait_for("a new conversation", told + 1)
    shared.wait_until_edited()
    shared.screen.reset()
    yield shared
    shared.wait_until_edited()


def test_a_conversation(chat: Terminal) -> None:
    chat.send("Where is Paris?" + ENTER)
    chat.wait_for("in the world.")
    chat.wait_for(">>>")
    assert PARIS in chat.text
    chat.send("Which country did I ask you about?" + ENTER)
    chat.wait_for(">>>", 2)
    chat.send("/show usage" + ENTER)
    chat.wait_for("prompt tokens reused")
    found = re.search(r"(\d+) of (\d+) prompt tokens reused", chat.text)
    assert found is not None
    reused, prompt = map(int, found.groups())
    assert reused > 34  # the first prompt, and what was answered to it
    assert prompt - reused < 34


def test_several_lines_by_alt_enter_quotes_and_paste(chat: Terminal) -> None:
    chat.send("one" + ALT_ENTER + "two" + ENTER)
    chat.wait_for(">>>", 1)
    chat.wait_until_edited()
    chat.send('"""three' + ENTER + 'four"""' + ENTER)
    chat.wait_for(">>>", 2)
    chat.wait_until_edited()
    chat.paste("five\nsix")
    chat.wait_for("six")
    chat.send(ENTER)
    chat.wait_for(">>>", 3)
    chat.wait_until_edited()
    chat.send("/show messages" + ENTER)
    for text in ("one\ntwo", "three\nfour", "five\nsix"):
        chat.wait_for(f"[user]\n{text}\n")


def test_ctrl_c_clears_the_line_and_then_tells_how_to_leave(chat: Terminal) -> None:
    chat.send("forget this")
    chat.wait_for("forget this")
    chat.send(CTRL_C)
    chat.wait_until(lambda: "forget this" not in chat.text, "the line to be cleared")
    chat.send(CTRL_C)
    chat.wait_for("Ctrl-C once more leaves")
    chat.send("/show model" + ENTER)
    chat.wait_for("model: smollm2")


def test_another_model_goes_on_with_the_conversation(chat: Terminal, model_path: Path) -> None:
    chat.send("Where is Paris?" + ENTER)
    chat.wait_for("in the world.")
    for name, told in (
        ("no/such.gguf", "llmstream: there is no file no/such.gguf"),
        (str(model_path), "model: SmolLM2-135M-Instruct"),
        ("smollm2", "model: smollm2"),
    ):
        chat.wait_until_edited()
        chat.paste(f"/model {name}")
        chat.send(ENTER)
        chat.wait_for(told)
    chat.wait_until_edited()
    chat.send("/show messages" + ENTER)
    chat.wait_for(f"[assistant]\n{PARIS}")


def test_a_narrower_terminal_loses_nothing(chat: Terminal) -> None:
    chat.send("Where is ")
    chat.wait_for("Where is")
    chat.resize(50, 40)
    chat.send("Paris?" + ENTER)
    chat.wait_for("the world.")
    chat.wait_until_edited()
    words = " ".join(chat.text.split())
    assert "Where is Paris?" in words
    assert PARIS in words
    chat.resize(100, 40)


# ---- Ctrl-C in an answer --------------------------------------------------------------------


def test_ctrl_c_in_an_answer_keeps_what_came() -> None:
    with terminal(*CHAT, "--stats") as chat:
        chat.wait_for(">>>")
        chat.send("Write a long story about a ship." + ENTER)
        chat.wait_for("loaded the model")
        chat.wait_until_cooked()
        shown = len(chat.text)
        chat.wait_until(lambda: len(chat.text) > shown + 60, "a part of the story")
        chat.send(CTRL_C)
        chat.wait_until_edited()
        chat.send("/show messages" + ENTER)
        chat.wait_for("[assistant]")
        chat.wait_until_edited()
        told, kept = chat.text.split("[assistant]\n")
        assert len(kept.split()) > 5
        for word in kept.partition(">>>")[0].split():
            assert word in told
        chat.send(CTRL_D)
        assert chat.end() == 0


def test_ctrl_c_before_the_answer_ends_the_turn_and_not_the_chat() -> None:
    with terminal(*CHAT, "-n", "17") as chat:
        chat.wait_for(">>>")
        chat.send("Where is Paris?" + ENTER)
        chat.wait_until_cooked()
        chat.send(CTRL_C)  # while the model is loaded
        chat.wait_for(">>>", 2)
        chat.wait_until_edited()
        chat.paste("word " * 2500)
        chat.send(ENTER)
        chat.wait_until_cooked()
        time.sleep(0.5)  # from encoding the prompt, maybe, to computing it
        chat.send(CTRL_C)
        chat.wait_for("stopped before the answer")
        chat.wait_until_edited()
        chat.send("/clear" + ENTER + "Where is Paris?" + ENTER)
        chat.wait_for("in the world.")
        chat.wait_until_edited()
        chat.send(CTRL_C)
        chat.wait_for("once more leaves")
        chat.wait_until_edited()
        chat.send(CTRL_C)
        assert chat.end() == 0


# ---- terminals of all kinds -----------------------------------------------------------------


def test_leaving_leaves_the_terminal_as_it_was() -> None:
    with terminal(*CHAT) as chat:
        before = termios.tcgetattr(chat.child.child_fd)
        chat.wait_for(">>>")
        chat.wait_until_edited()
        chat.send("/exit" + ENTER)
        assert chat.end() == 0
        assert b"\x1b[?2004l" in chat.received  # pasting is as it was, too
    assert before[3] & termios.ICANON


def test_ask_without_a_question_is_a_chat_without_colours_where_none_are_wanted() -> None:
    with terminal("ask", "-t", "0", "-n", "17", NO_COLOR="1") as chat:
        ask_and_leave(chat)
        sgr = re.findall(rb"\x1b\[([\d;]*)m", chat.received)
        codes = {int(code or 0) for group in sgr for code in group.split(b";")}
        assert not codes & {*range(30, 38), *range(40, 48), *range(90, 98), 38, 48}


@pytest.mark.parametrize("option", ["--json", "--raw", "--count"])
def test_what_is_for_one_question_wants_one(option: str) -> None:
    with terminal("ask", option) as asking:
        assert asking.end() == 2
        assert "there is no question" in asking.text


def test_an_answer_to_a_file_is_bytes_and_the_prompt_is_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with terminal(*CHAT, "-n", "17", shell=f'exec "$@" > {path}') as chat:
        ask_and_leave(chat, seen=">>>")
        assert PARIS not in chat.text
    assert path.read_text().strip() == PARIS


def test_a_chat_without_standard_error() -> None:
    with terminal(*CHAT, "-n", "17", shell='exec "$@" 2>/dev/null') as chat:
        ask_and_leave(chat)


def test_a_dumb_terminal_gets_no_control_sequences() -> None:
    with terminal(*CHAT, "-n", "17", TERM="dumb") as chat:
        chat.wait_for(">>>")
        chat.send("Where is Paris?\n")
        chat.wait_for("in the world.")
        chat.wait_for(">>>", 2)
        chat.send(CTRL_C)
        chat.wait_for(">>>", 3)
        chat.send('"""one\n')
        chat.wait_for("...")
        chat.send('two"""\n')
        chat.wait_for(">>>", 4)
        chat.send("/show messages\n")
        chat.wait_for("[user]\none\ntwo\n")
        chat.send(CTRL_D)
        assert chat.end() == 0
        assert b"\x1b" not in chat.received
