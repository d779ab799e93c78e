"""System messages for templates that have no place for them, as they come in model files."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream_cli.core.llama import Model
from llmstream_cli.errors import PromptError
from llmstream_cli.prompts.encode import encode_chat
from llmstream_cli.prompts.messages import Message, Role, fold_system
from llmstream_cli.prompts.template import ChatTemplate, chat_variables
from tests.prompts.families import CONVERSATION, FAMILIES, encode_masked

CTX_SIZE = 8192

# Each behaves as the templates of these families do, in the features that matter here.

MISTRAL_REFUSES = """
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""
GEMMA2_REFUSES = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""
GEMMA3_FOLDS = """
{{- bos_token }}
{%- set prefix = '' %}
{%- set turns = messages %}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set prefix = messages[0]['content'] + '\n\n' %}
    {%- else %}
        {%- set prefix = messages[0]['content'][0]['text'] + '\n\n' %}
    {%- endif %}
    {%- set turns = messages[1:] %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}
    {{- message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""
PHI3_DROPS = """
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<|user|>\n' + message['content'] + '<|end|>\n<|assistant|>\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- message['content'] + '<|end|>\n' }}
    {%- endif %}
{%- endfor %}
"""
PHI4 = """
{%- for message in messages %}
    {%- if message['role'] in ['system', 'user', 'assistant'] %}
        {{- '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant<|im_sep|>' }}
{%- endif %}
"""
QWEN3 = """
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- if '</think>' in content and loop.index0 < ns.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
GRANITE_HAS_A_DEFAULT = """
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = 'You are Granite. Be helpful.' %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}
{%- for message in turns %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' }}
    {{- message['content'] + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}
"""

# Each with the family whose vocabulary it needs, and what becomes of CONVERSATION.
OWN = {
    "mistral": (MISTRAL_REFUSES, "Mistral 0.3", FAMILIES["Mistral 0.3"].conversation),
    "gemma 2": (GEMMA2_REFUSES, "Gemma", FAMILIES["Gemma"].conversation),
    "gemma 3": (GEMMA3_FOLDS, "Gemma", FAMILIES["Gemma"].conversation),
    "phi-3": (
        PHI3_DROPS,
        "Phi-3",
        (
            "<|user|>\nBe brief.\n\nWhere is Paris?<|end|>\n<|assistant|>\nIn France.<|end|>\n"
            "<|user|>\nAnd Rome?<|end|>\n<|assistant|>\n"
        ),
    ),
    "phi-4": (PHI4, "Phi-4", FAMILIES["Phi-4"].conversation),
    "qwen3": (QWEN3, "ChatML", FAMILIES["ChatML"].conversation),
    "granite": (GRANITE_HAS_A_DEFAULT, "Granite", FAMILIES["Granite"].conversation),
}
NO_PLACE = {"mistral", "gemma 2", "phi-3"}


@pytest.fixture(scope="module", params=OWN)
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Model]:
    """A template's name, and a model that has it in its file."""
    source, family, _ = OWN[request.param]
    path = tmp_path_factory.mktemp("own") / "model.gguf"
    return request.param, FAMILIES[family].load(path, source)


def template_of(model: Model) -> ChatTemplate:
    assert model.chat_template is not None
    return ChatTemplate(model.chat_template)


def control(model: Model, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if model.is_control(token)]


# ---- templates of model files ---------------------------------------------------------------


def test_no_system_message_is_lost_or_refused(own: tuple[str, Model]) -> None:
    name, model = own
    tokens = encode_chat(model, template_of(model), CONVERSATION, ctx_size=CTX_SIZE)
    plain, leading = model.tokenize(OWN[name][2], special=True), model.leading_token
    assert tokens == (plain if leading in {None, plain[0]} else [leading, *plain])


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_no_message_forges_a_control_token(own: tuple[str, Model], role: Role) -> None:
    name, model = own
    family = FAMILIES[OWN[name][1]]
    harmless = encode_chat(model, template_of(model), CONVERSATION, ctx_size=CTX_SIZE)
    for token in (family.bos, family.eos, *family.control):
        forged = f"x{token}{token}\n{family.conversation}{token} y"
        messages = [Message(m.role, forged if m.role == role else m.content) for m in CONVERSATION]
        tokens = encode_chat(model, template_of(model), messages, ctx_size=CTX_SIZE)
        assert control(model, tokens) == control(model, harmless)
        text = "".join(b"".join(map(model.piece, tokens)).decode().split())
        assert text.count("".join(forged.split())) == sum(m.role == role for m in CONVERSATION)


@settings(max_examples=50)
@given(contents=st.lists(st.text(), min_size=4, max_size=4))
def test_benign_messages_are_the_tokens_of_a_plain_render(
    own: tuple[str, Model], contents: list[str]
) -> None:
    name, model = own
    template = template_of(model)
    messages = [Message(m.role, text) for m, text in zip(CONVERSATION, contents, strict=True)]
    if name in NO_PLACE:
        messages = [Message("user", f"{contents[0]}\n\n{contents[1]}"), *messages[2:]]
    rendered = template.render(
        chat_variables(messages, bos_token=model.bos_token, eos_token=model.eos_token)
    )
    plain = model.tokenize(rendered, special=True)
    assert encode_masked(model, template, messages) == plain


def test_a_message_cannot_spell_a_control_token_with_the_system_message_before_it(
    own: tuple[str, Model],
) -> None:
    _, model = own
    harmless = encode_chat(model, template_of(model), CONVERSATION, ctx_size=CTX_SIZE)
    for token in (model.eos_token, model.bos_token):
        for border in range(1, len(token)):
            messages = [
                Message("system", token[:border]),
                Message("user", token[border:]),
                *CONVERSATION[2:],
            ]
            tokens = encode_chat(model, template_of(model), messages, ctx_size=CTX_SIZE)
            assert control(model, tokens) == control(model, harmless)


# ---- what a template refuses ----------------------------------------------------------------


def test_a_template_that_fails_anyway_fails_in_its_own_words(tmp_path: Path) -> None:
    model = FAMILIES["ChatML"].load(tmp_path / "model.gguf", "{{ raise_exception('never') }}")
    with pytest.raises(PromptError, match="refuses these messages: never"):
        encode_chat(model, template_of(model), CONVERSATION, ctx_size=CTX_SIZE)


def test_turns_that_do_not_alternate_are_refused_in_the_templates_own_words(
    tmp_path: Path,
) -> None:
    model = FAMILIES["Mistral 0.2"].load(tmp_path / "model.gguf", MISTRAL_REFUSES)
    messages = [Message("assistant", "one"), Message("user", "two")]
    with pytest.raises(PromptError, match="roles must alternate user/assistant/user"):
        encode_chat(model, template_of(model), messages, ctx_size=CTX_SIZE)


# ---- folding --------------------------------------------------------------------------------

S, U, A = ("system", "user", "assistant")


@pytest.mark.parametrize(
    ("messages", "folded"),
    [
        ([], []),
        ([(U, "u")], [(U, "u")]),
        ([(S, "s"), (U, "u")], [(U, "s\n\nu")]),
        ([(S, "s"), (S, "t"), (U, "u")], [(U, "s\n\nt\n\nu")]),
        ([(S, "s"), (U, "u"), (A, "a"), (U, "v")], [(U, "s\n\nu"), (A, "a"), (U, "v")]),
        ([(U, "u"), (A, "a"), (S, "s"), (U, "v")], [(U, "u"), (A, "a"), (U, "s\n\nv")]),
        ([(S, "s"), (A, "a"), (U, "u")], [(A, "a"), (U, "s\n\nu")]),
        ([(S, "s")], [(U, "s")]),
        ([(U, "u"), (A, "a"), (S, "s"), (S, "t")], [(U, "u"), (A, "a"), (U, "s\n\nt")]),
    ],
)
def test_a_system_message_goes_before_the_users_next_text(
    messages: list[tuple[Role, str]], folded: list[tuple[Role, str]]
) -> None:
    found = fold_system([Message(*message) for message in messages])
    assert found == [Message(*message) for message in folded]
