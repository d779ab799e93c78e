"""The commands of a chat."""

import pytest

from llmstream_cli.cli.chat.slash import complete, run_command
from llmstream_cli.cli.options import SamplingOptions
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.presets import PRESETS
from llmstream_cli.prompts.contexts import CONTEXTS
from tests.cli.chat.talks import talking
from tests.server.fakes import FakeEngine


def answers(capfd: pytest.CaptureFixture[str], *commands: str) -> str:
    """What commands print, after one turn of a chat."""
    with talking(FakeEngine(), system="be brief") as talk:
        talk.ask("first")
        capfd.readouterr()
        for command in commands:
            assert run_command(talk, command)
    out, err = capfd.readouterr()
    assert out == ""
    return err


def test_help_names_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    told = answers(capfd, "/help")
    for name in complete(()):
        assert name.strip() in told
    assert max(map(len, told.splitlines())) < 100


@pytest.mark.parametrize("command", ["/exit", "/quit", "/bye", " /exit  "])
def test_commands_that_leave(command: str) -> None:
    with talking(FakeEngine()) as talk:
        assert not run_command(talk, command)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("/hlep", "there is no /hlep; did you mean /help?"),
        ("/", "there is no /; /help lists the commands"),
        ("/etc/passwd", "there is no /etc/passwd; /help lists"),
        ("/context sqll", "did you mean sql?"),
        ("/set warmth 1", "there is no setting 'warmth'"),
        ("/set temprature 1", "did you mean temperature?"),
        ("/set temperature", "give a value: /set temperature VALUE"),
        ("/set temperature warm", "temperature has to be a number, not 'warm'"),
        ("/set top_k 1.5", "top_k has to be a whole number, not '1.5'"),
        ("/set temperature nan", "temperature must be between"),
        ("/set max-tokens 0", "max_tokens must be between"),
        ("/undo", "nothing has been said"),
        ("/retry", "no question has been asked"),
        ("/show weights", "/show knows model, system, sampling, usage, messages"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(command: str, complaint: str) -> None:
    with talking(FakeEngine()) as talk:
        with pytest.raises(InvalidValueError, match=complaint.replace("?", r"\?")):
            run_command(talk, command)
        assert (talk.setup.sampling, talk.conversation.system) == (SamplingOptions(), None)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/set temperature 0.5", SamplingOptions(temperature=0.5)),
        ("/set --temperature 0.5", SamplingOptions(temperature=0.5)),
        ("/set top-k 3", SamplingOptions(top_k=3)),
        ("/set max_tokens  9 ", SamplingOptions(max_tokens=9)),
        ("/set stop and so on", SamplingOptions(stop=("and so on",))),
        ("/set stop off", SamplingOptions()),
        ("/set seed off", SamplingOptions()),
    ],
)
def test_sampling_is_set(command: str, expected: SamplingOptions) -> None:
    with talking(FakeEngine()) as talk:
        run_command(talk, command)
        assert talk.setup.sampling == expected


def test_every_option_of_sampling_can_be_set() -> None:
    names = {parameter.name for parameter in SamplingOptions.parameters()}
    assert {name.strip() for name in complete(("/set",))} == names


def test_sampling_is_shown_with_what_was_set(capfd: pytest.CaptureFixture[str]) -> None:
    lines = answers(capfd, "/set temperature 0.5", "/set stop end", "/set").splitlines()
    assert "temperature 0.5  (set)" in lines
    assert "stop end  (set)" in lines
    assert "top_p 0.5" in lines  # as the model's authors advise
    assert "seed off" in lines


def test_the_system_message_is_shown_set_and_taken_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert answers(capfd, "/system") == "system: be brief\n"
    assert answers(capfd, "/system be  long", "/system") == "system: be  long\n"
    assert answers(capfd, "/system off", "/show system").startswith("system: none but")
    assert answers(capfd, "/context") == "".join(f"{n}: {t}\n" for n, t in CONTEXTS.items())
    assert answers(capfd, "/context sql", "/show system") == f"system: {CONTEXTS['sql']}\n"


def test_show_tells_all_but_the_messages(capfd: pytest.CaptureFixture[str]) -> None:
    told = answers(capfd, "/show")
    for part in ("model: fake", "system: be brief", "temperature 0.2", "tokens: 10 of 1024"):
        assert part in told
    assert "3 of 7 prompt tokens reused" in told
    assert "one two three" not in told


def test_messages_are_shown_without_controls(capfd: pytest.CaptureFixture[str]) -> None:
    with talking(FakeEngine(pieces=("a\x1b[2Jb",))) as talk:
        talk.ask("first")
        capfd.readouterr()
        run_command(talk, "/show messages")
    assert capfd.readouterr().err == "[user]\nfirst\n\n[assistant]\na[2Jb\n\n"


def test_turns_are_taken_back_answered_again_and_left_behind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    told = answers(capfd, "/undo", "/show messages")
    assert told == "took back: first\n[system]\nbe brief\n\n"
    told = answers(capfd, "/clear", "/show usage")
    assert told.endswith("tokens: unknown before an answer that came to its end\n")
    with talking(FakeEngine()) as talk:
        talk.ask("first")
        run_command(talk, "/retry")
        assert len(talk.conversation.turns) == 2
    assert capfd.readouterr().out == "one two three" * 2


def test_words_are_completed() -> None:
    assert "/help" in complete(())
    assert list(complete(("/context",))) == list(CONTEXTS)
    assert list(complete(("/model",))) == list(PRESETS)
    assert "usage" in complete(("/show",))
    assert list(complete(("/system",))) == []
