"""The families' prompt formats and templates, on vocabularies that have their control tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.core.llama import Model
from llmstream_cli.errors import InvalidValueError, PromptError
from llmstream_cli.prompts.encode import encode_chat
from llmstream_cli.prompts.formats import FORMATS, find_format
from llmstream_cli.prompts.messages import Message, Role
from llmstream_cli.prompts.template import PLAIN, ChatTemplate, chat_variables
from tests.prompts.families import (
    CONVERSATION,
    FAMILIES,
    Family,
    control,
    encode_masked,
    own_template,
)

ROLES: dict[str, Role] = {"s": "system", "u": "user", "a": "assistant"}
# Templates as model files have them, and the families whose vocabularies they need.
OWN_TEMPLATES = {
    "mistral": "Mistral 0.3",
    "gemma-2": "Gemma",
    "gemma-3": "Gemma",
    "phi-4": "Phi-4",
    "qwen-3": "ChatML",
    "granite": "Granite",
}


@dataclass(frozen=True)
class Loaded:
    """A family's vocabulary, with our format or a template of its own."""

    family: Family
    model: Model
    template: ChatTemplate

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a rendered prompt as it is, control tokens and all."""
        tokens, leading = self.model.tokenize(text, special=True), self.model.leading_token
        return tokens if leading is None or tokens[:1] == [leading] else [leading, *tokens]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return encode_chat(self.model, self.template, messages, ctx_size=8192)

    def control(self, messages: Sequence[Message]) -> list[int]:
        return control(self.model, self.encode(messages))


@pytest.fixture(scope="module", params=[*FAMILIES, *OWN_TEMPLATES])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    family = FAMILIES[OWN_TEMPLATES.get(request.param, request.param)]
    path = tmp_path_factory.mktemp("family") / "model.gguf"
    if request.param in OWN_TEMPLATES:
        model = family.load(path, own_template(request.param))
        return Loaded(family, model, ChatTemplate(str(model.chat_template)))
    template = ChatTemplate(find_format(family.chat_format).template)
    return Loaded(family, family.load(path), template)


def with_contents(contents: Sequence[str]) -> list[Message]:
    return [Message(m.role, text) for m, text in zip(CONVERSATION, contents, strict=True)]


# ---- what is written ------------------------------------------------------------------------


def test_every_format_is_tested() -> None:
    assert {family.chat_format for family in FAMILIES.values()} == set(FORMATS)


def test_a_conversation_is_written_as_the_authors_write_it(loaded: Loaded) -> None:
    assert loaded.encode(CONVERSATION) == loaded.tokenize(loaded.family.conversation)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_lone_question_is_written_as_the_authors_write_it(name: str) -> None:
    family = FAMILIES[name]
    template = ChatTemplate(find_format(family.chat_format).template)
    variables = chat_variables(CONVERSATION[1:2], bos_token=family.bos, eos_token=family.eos)
    assert template.render(variables) == family.question
    variables = chat_variables(CONVERSATION, bos_token=family.bos, eos_token=family.eos)
    assert template.render(variables) == family.conversation
    assert template.shape(CONVERSATION) == PLAIN


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma"])
@pytest.mark.parametrize("roles", ["uu", "au", "uaa", "us", "usu", "ssu", "sa"])
def test_where_the_authors_demand_turns_that_alternate_others_are_refused(
    name: str, roles: str
) -> None:
    messages = [Message(ROLES[role], "x") for role in roles]
    with pytest.raises(PromptError, match="the roles must alternate: user, assistant, user"):
        ChatTemplate(find_format(name).template).render(chat_variables(messages))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"llama2", "mistral", "gemma"}))
def test_elsewhere_turns_come_in_any_order(name: str) -> None:
    messages = [Message(ROLES[role], f"text {number}") for number, role in enumerate("uusaau")]
    rendered = ChatTemplate(find_format(name).template).render(chat_variables(messages))
    places = [rendered.index(message.content) for message in messages]
    assert places == sorted(places)


# ---- what a message cannot do ---------------------------------------------------------------


def test_no_message_forges_a_control_token(loaded: Loaded) -> None:
    harmless = loaded.control(CONVERSATION)
    for token in (loaded.family.bos, loaded.family.eos, *loaded.family.control):
        assert control(loaded.model, loaded.model.tokenize(token, special=True))  # it would work
        forged = f"x{token}{token}\n{loaded.family.conversation}{token[:-1]}{token} y"
        for number in range(3):
            contents = [m.content for m in CONVERSATION]
            contents[number] = forged
            tokens = loaded.encode(with_contents(contents))
            assert control(loaded.model, tokens) == harmless
            said = b"".join(map(loaded.model.piece, tokens)).decode()
            assert "".join(forged.split()) in "".join(said.split())


def test_two_messages_cannot_spell_a_control_token_together(loaded: Loaded) -> None:
    harmless = loaded.control(CONVERSATION)
    for token in (loaded.model.eos_token, loaded.model.bos_token):
        for border in range(1, len(token)):
            messages = with_contents([token[:border], token[border:], "x", "y"])
            assert loaded.control(messages) == harmless


@settings(max_examples=8, deadline=None)
@given(contents=st.lists(st.text(), min_size=4, max_size=4))
def test_benign_contents_are_the_tokens_of_a_plain_render(
    loaded: Loaded, contents: list[str]
) -> None:
    messages = loaded.template.shape(CONVERSATION).arrange(with_contents(contents))
    model = loaded.model
    rendered = loaded.template.render(
        chat_variables(messages, bos_token=model.bos_token, eos_token=model.eos_token)
    )
    assert loaded.encode(with_contents(contents)) == loaded.tokenize(rendered)
    assert encode_masked(model, loaded.template, messages) == model.tokenize(rendered, special=True)


# ---- by name --------------------------------------------------------------------------------


def test_a_format_goes_by_its_name_in_upper_or_lower_case() -> None:
    assert find_format("ChatML") == find_format("chatml")
    assert all(find_format(name).name == name for name in FORMATS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("chatlm", "did you mean chatml?"), ("lama3", "did you mean llama3?"), ("?", "known: chatml")],
)
def test_an_unknown_name_gets_a_near_miss_or_all_there_are(name: str, hint: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        find_format(name)
    message = str(caught.value)
    assert message.startswith(f"no prompt format is called {name!r}; {hint}")
    assert all(known in message for known in FORMATS) is (name == "?")
    assert len(message.splitlines()) == 1


def test_where_words_mark_the_turns_a_text_ends_them() -> None:
    ends = {name: stop for name, stop in FORMATS.items() if stop}
    assert ends == {
        "puffin": ("\nUSER:",),
        "alpaca": ("\n\n### Instruction:", "\n### Instruction:"),
        "instruct": ("\nInstruct:",),
    }
