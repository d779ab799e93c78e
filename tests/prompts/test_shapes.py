"""Every message is in the prompt, whatever a template takes, or the conversation is refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts import encode
from llmstream_cli.prompts.formats import FORMATS, find_format
from llmstream_cli.prompts.messages import Ending, Message, Role, fold_system
from llmstream_cli.prompts.template import ChatTemplate
from tests.gguf_files import CHATML_TEMPLATE, LLAMA2_TEMPLATE
from tests.prompts.families import own_template
from tests.prompts.test_encode import FakeTokenizer

CHATML, COMMAND_R = CHATML_TEMPLATE, own_template("command-r")
OWN = sorted(path.stem for path in (Path(__file__).parent / "templates").iterdir())
TEMPLATES = {
    **{name: own_template(name) for name in OWN},
    **{f"our {name}": find_format(name).template for name in FORMATS},
    "plain chatml": CHATML,
    "llama 2": LLAMA2_TEMPLATE,
}
ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}
CONVERSATIONS = [
    "u",
    "su",
    "ssu",
    "sus",
    "suasu",
    "suas",
    "usu",
    "uu",
    "suuau",
    "uau",
    "s",
    "sssuu",
]
CONTINUED = ["ua", "sua", "ssuasua", "uaua"]


def conversation(roles: str) -> list[Message]:
    return [Message(ROLES[role], f"text {n} of {role}") for n, role in enumerate(roles)]


def prompt(source: str, messages: Sequence[Message], ending: Ending = "turn") -> str:
    tokens = encode.encode_chat(
        FakeTokenizer(), ChatTemplate(source), messages, ctx_size=8192, ending=ending
    )
    return "".join(map(chr, tokens))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("ending", ["turn", "message"])
def test_every_message_is_written_once_and_one_that_is_continued_last(
    name: str, ending: Ending
) -> None:
    for roles in CONTINUED if ending == "message" else CONVERSATIONS:
        messages = conversation(roles)
        written = prompt(TEMPLATES[name], messages, ending)
        assert [written.count(message.content) for message in messages] == [1] * len(messages), (
            roles
        )
        assert ending == "turn" or written.endswith(messages[-1].content), roles


@pytest.mark.parametrize("content", ["In ", "a\n", "<think>\nhm", "1. ", "\U000ffffd", " "])
def test_white_space_before_the_answer_stays(content: str) -> None:
    messages = [Message("user", "hi"), Message("assistant", content)]
    assert prompt(CHATML, messages, "message").endswith(f"assistant\n{content}")
    assert prompt(COMMAND_R, messages, "message").endswith(f"<|CHATBOT_TOKEN|>{content.lstrip()}")


def test_a_closed_prompt_opens_no_turn() -> None:
    written = prompt(CHATML, conversation("ua"), "closed")
    assert written.endswith("text 1 of a<|im_end|>\n")


def test_a_template_that_cannot_leave_a_message_open_is_refused() -> None:
    source = "{% for m in messages %}{{ m.content | replace('\U000ffffd', '') }}{% endfor %}"
    with pytest.raises(PromptError, match="cannot leave the last message open"):
        prompt(source, conversation("ua"), "message")


@pytest.mark.parametrize(
    ("source", "roles", "lost"),
    [
        ("{{ 'nothing at all' }}", "u", r"message 1 \(user\)"),
        ("{{ messages[0].content }}", "uau", r"message 3 \(user\)"),
        ("{{ messages[-1].content }}", "sua", r"message 1 \(system\)"),
        ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}", "su", "user"),
        ("{% for m in messages %}{{ m.content[:6] }}{% endfor %}", "u", r"message 1 \(user\)"),
    ],
)
def test_what_cannot_be_written_is_refused(source: str, roles: str, lost: str) -> None:
    with pytest.raises(PromptError, match=f"does not write .*{lost}.* --template"):
        prompt(source, conversation(roles))


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        ("{{ messages[-1].content }}", conversation("uau"), "text 2 of u"),
        (
            own_template("phi-3"),
            conversation("su"),
            "<|user|>\ntext 0 of s\n\ntext 1 of u<|end|>\n<|assistant|>\n",
        ),
        ("{{ messages[-1].content }}", conversation("su"), "text 0 of s\n\ntext 1 of u"),
        ("{{ messages[-1].content | upper }}", conversation("u"), "TEXT 0 OF U"),
        ("{{ messages[-1].content | trim }}", [Message("user", "  hi\n")], "hi"),
        (
            "{% for m in messages %}{{ m.content.split('</think>')[-1] }};{% endfor %}",
            [
                Message("user", "hi"),
                Message("assistant", "<think>x</think>yo"),
                Message("user", "?"),
            ],
            "hi;yo;?;",
        ),
    ],
)
def test_what_a_template_does_on_purpose_is_its_own(
    source: str, messages: list[Message], expected: str
) -> None:
    assert prompt(source, messages) == expected


def test_the_roles_are_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(own_template("qwen-3.5"))
    shape = template.shape(conversation("ssu"))
    monkeypatch.setattr(ChatTemplate, "render", lambda *_: pytest.fail("probed again"))
    assert template.shape(conversation("ssu")) is shape


@pytest.mark.parametrize(
    ("messages", "folded"),
    [
        ([], []),
        (["system s", "user u"], ["user s\n\nu"]),
        (["system s", "system t", "user u"], ["user s\n\nt\n\nu"]),
        (["user u", "assistant a", "system s", "user v"], ["user u", "assistant a", "user s\n\nv"]),
        (["system s", "assistant a", "user u"], ["assistant a", "user s\n\nu"]),
        (["user u", "system s", "system t"], ["user u", "user s\n\nt"]),
    ],
)
def test_a_system_message_goes_before_the_users_next_text(
    messages: list[str], folded: list[str]
) -> None:
    def read(texts: list[str]) -> list[Message]:
        return [Message(ROLES[text[0]], text.partition(" ")[2]) for text in texts]

    assert fold_system(read(messages)) == read(folded)
