"""The families' prompt formats, on vocabularies that have their control tokens."""

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
from tests.prompts.families import CONVERSATION, FAMILIES, Family, encode_masked

CTX_SIZE = 8192


@dataclass(frozen=True)
class Loaded:
    """A family's vocabulary and format."""

    family: Family
    model: Model
    template: ChatTemplate

    def render(self, messages: Sequence[Message]) -> str:
        variables = chat_variables(messages, bos_token=self.family.bos, eos_token=self.family.eos)
        return self.template.render(variables)

    def tokenize(self, text: str) -> list[int]:
        """Tokenize a rendered prompt as it is, control tokens and all."""
        tokens, leading = self.model.tokenize(text, special=True), self.model.leading_token
        return tokens if leading is None or tokens[:1] == [leading] else [leading, *tokens]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return encode_chat(self.model, self.template, messages, ctx_size=CTX_SIZE)

    def control(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if self.model.is_control(token)]

    def text(self, tokens: Sequence[int]) -> str:
        """What the tokens say, without the spaces that SentencePiece puts behind each marker."""
        said = b"".join(map(self.model.piece, tokens)).decode()
        return "".join(said.split())


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    family = FAMILIES[request.param]
    model = family.load(tmp_path_factory.mktemp("family") / "model.gguf")
    return Loaded(family, model, ChatTemplate(find_format(family.chat_format).template))


def with_content(content: str, role: Role = "user") -> list[Message]:
    """The conversation with another content in its first turn of that role."""
    turn = next(number for number, message in enumerate(CONVERSATION) if message.role == role)
    return [*CONVERSATION[:turn], Message(role, content), *CONVERSATION[turn + 1 :]]


# ---- what is written ------------------------------------------------------------------------


def test_every_format_is_tested() -> None:
    assert {family.chat_format for family in FAMILIES.values()} == set(FORMATS)


def test_a_conversation_is_written_as_the_authors_write_it(loaded: Loaded) -> None:
    assert loaded.render(CONVERSATION) == loaded.family.conversation
    assert loaded.encode(CONVERSATION) == loaded.tokenize(loaded.family.conversation)


def test_a_lone_question_is_written_as_the_authors_write_it(loaded: Loaded) -> None:
    question = CONVERSATION[1:2]
    assert loaded.render(question) == loaded.family.question
    assert loaded.encode(question) == loaded.tokenize(loaded.family.question)


def test_without_the_request_for_an_answer_the_conversation_just_ends(loaded: Loaded) -> None:
    variables = chat_variables(CONVERSATION[:3], bos_token="<bos>", eos_token="<eos>")
    ended = loaded.template.render({**variables, "add_generation_prompt": False})
    assert loaded.template.render(variables).startswith(ended)


def test_every_format_takes_a_system_message(loaded: Loaded) -> None:
    assert loaded.template.shape(CONVERSATION) == PLAIN


def test_the_prompt_begins_with_the_leading_token_once(loaded: Loaded) -> None:
    bos = loaded.model.tokenize(loaded.family.bos, special=True)[0]
    tokens = loaded.encode(CONVERSATION[1:2])
    # Only Granite writes it elsewhere: there it also ends a turn.
    elsewhere = loaded.family.chat_format == "granite"
    assert tokens.count(bos) == loaded.family.add_bos + elsewhere
    assert (tokens[0] == bos) == loaded.family.add_bos


@pytest.mark.parametrize("name", ["llama2", "mistral", "gemma"])
@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user"),
        ("assistant", "user"),
        ("user", "assistant", "assistant"),
        ("user", "system"),
        ("user", "system", "user"),
        ("system", "system", "user"),
        ("system", "assistant"),
    ],
)
def test_where_the_authors_demand_turns_that_alternate_others_are_refused(
    name: str, roles: tuple[Role, ...]
) -> None:
    messages = [Message(role, "x") for role in roles]
    with pytest.raises(PromptError, match="the roles must alternate: user, assistant, user"):
        ChatTemplate(find_format(name).template).render(
            chat_variables(messages, bos_token="", eos_token="")
        )


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"llama2", "mistral", "gemma"}))
def test_elsewhere_turns_come_in_any_order(name: str) -> None:
    roles: tuple[Role, ...] = ("user", "user", "system", "assistant", "assistant", "user")
    messages = [Message(role, f"text {number}") for number, role in enumerate(roles)]
    rendered = ChatTemplate(find_format(name).template).render(
        chat_variables(messages, bos_token="", eos_token="")
    )
    places = [rendered.index(message.content) for message in messages]
    assert places == sorted(places)


# ---- what a message cannot do ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_no_message_forges_a_control_token(loaded: Loaded, role: Role) -> None:
    family = loaded.family
    for token in (family.bos, family.eos, *family.control):
        assert loaded.control(loaded.model.tokenize(token, special=True))  # it would work
        forged = f"x{token}{token}\n{family.conversation}{token[:-1]}{token} y"
        tokens = loaded.encode(with_content(forged, role))
        harmless = loaded.encode(with_content("x", role))
        assert loaded.control(tokens) == loaded.control(harmless)
        assert "".join(forged.split()) in loaded.text(tokens)


CONTROL = {token for family in FAMILIES.values() for token in (family.bos, *family.control)}
WORDS = (
    "<|",
    "|>",
    "<",
    ">",
    "[",
    "]",
    "/",
    "INST",
    "im_end",
    "user",
    "\n",
    " ",
    "USER:",
    "é",
    "東",
)
PIECES = st.sampled_from([*sorted(CONTROL), "</s>", *WORDS])


@settings(max_examples=50)
@given(contents=st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=4, max_size=4))
def test_random_contents_add_no_control_token(loaded: Loaded, contents: list[str]) -> None:
    messages = [
        Message(message.role, content)
        for message, content in zip(CONVERSATION, contents, strict=True)
    ]
    assert loaded.control(loaded.encode(messages)) == loaded.control(loaded.encode(CONVERSATION))


@settings(max_examples=50)
@given(contents=st.lists(st.text(), min_size=4, max_size=4))
def test_benign_contents_are_the_tokens_of_a_plain_render(
    loaded: Loaded, contents: list[str]
) -> None:
    messages = [
        Message(message.role, content)
        for message, content in zip(CONVERSATION, contents, strict=True)
    ]
    plain = loaded.tokenize(loaded.render(messages))
    assert loaded.encode(messages) == plain
    masked = encode_masked(loaded.model, loaded.template, messages)
    assert masked == loaded.model.tokenize(loaded.render(messages), special=True)


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
