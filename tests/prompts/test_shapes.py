"""Every message is in the prompt, whatever a template takes, or the conversation is refused."""

from collections.abc import Sequence
from itertools import product

import pytest

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts import encode
from llmstream_cli.prompts.formats import FORMATS, find_format
from llmstream_cli.prompts.messages import Ending, Message, Role
from llmstream_cli.prompts.template import ChatTemplate
from tests.gguf_files import CHATML_TEMPLATE, LLAMA2_TEMPLATE
from tests.prompts.test_encode import FakeTokenizer
from tests.prompts.test_folding import OWN

# Each behaves as the templates of these families do, in the features that matter here.
SMOLVLM = """
{%- for message in messages -%}
    {%- set image = message['content'][0]['type'] == 'image' -%}
    {{- message['role'] | capitalize + (':' if image else ': ') -}}
    {%- for line in message['content'] -%}
        {%- if line['type'] == 'text' -%}{{- line['text'] -}}{%- endif -%}
    {%- endfor -%}
    {{- '<end_of_utterance>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
LLAMA_GUARD3 = """
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') -}}
    {%- endif -%}
    {{- message['role'] + ': ' -}}
    {%- for content in message['content'] -%}
        {%- if content['type'] == 'text' -%}{{- content['text'] | trim -}}{%- endif -%}
    {%- endfor -%}
    {{- '\n\n' -}}
{%- endfor -%}
{{- 'Provide your safety assessment.' -}}
"""
QWEN35 = """
{%- macro text(content) -%}
    {%- if content is string -%}{{- content -}}
    {%- else -%}{%- for item in content -%}{{- item.text -}}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- set content = text(message.content) | trim -%}
    {%- if message.role == 'system' and not loop.first -%}
        {{- raise_exception('System message must be at the beginning.') -}}
    {%- endif -%}
    {%- if message.role == 'assistant' and '</think>' in content -%}
        {%- set content = content.split('</think>')[-1].lstrip('\n') -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}
"""
FIRST_SYSTEM_ALONE = """
{%- if messages[0].role == 'system' -%}{{- 'S: ' + messages[0].content + '\n' -}}{%- endif -%}
{%- for message in messages if message.role != 'system' -%}
    {{- message.role + ': ' + message.content + '\n' -}}
{%- endfor -%}
"""
LAST_SYSTEM_ALONE = """
{%- set ns = namespace(system='') -%}
{%- for message in messages if message.role == 'system' -%}
    {%- set ns.system = message.content -%}
{%- endfor -%}
{{- ns.system -}}
{%- for message in messages if message.role != 'system' -%}
    {{- message.role + ': ' + message.content + '\n' -}}
{%- endfor -%}
"""
DEEPSEEK = """
{%- set ns = namespace(system='') -%}
{%- for message in messages if message['role'] == 'system' -%}
    {%- set ns.system = ns.system + ('\n\n' if ns.system else '') + message['content'] -%}
{%- endfor -%}
{{- bos_token + ns.system -}}
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}{{- '<|User|>' + message['content'] -}}{%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<|Assistant|>' + message['content'].split('</think>')[-1] + eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|Assistant|><think>\n' -}}{%- endif -%}
"""
COMMAND_R = """
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = 'You are a large language model.' -%}{%- set turns = messages -%}
{%- endif -%}
{{- '<|SYSTEM_TOKEN|>' + system + '<|END_OF_TURN_TOKEN|>' -}}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/...') -}}
    {%- endif -%}
    {%- set token = '<|USER_TOKEN|>' if message['role'] == 'user' else '<|CHATBOT_TOKEN|>' -%}
    {{- token + message['content'].strip() + '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|CHATBOT_TOKEN|>' -}}{%- endif -%}
"""
HARMONY = """
{%- set developer = messages[0].content if messages[0].role == 'system' else '' -%}
{{- '<|start|>system<|message|>You are ChatGPT.<|end|>' -}}
{%- if developer -%}{{- '<|start|>developer<|message|>' + developer + '<|end|>' -}}{%- endif -%}
{%- for message in (messages[1:] if developer else messages) -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content -}}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' -}}
    {%- elif message.role == 'user' -%}
        {{- '<|start|>user<|message|>' + message.content + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
GLM = """
{{- '[gMASK]<sop>' -}}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}{{- '<|user|>\n' + m.content + '/nothink' -}}
    {%- elif m.role == 'assistant' -%}
        {{- '<|assistant|>\n<think></think>\n' + m.content.split('</think>')[-1].strip() -}}
    {%- else -%}{{- '<|system|>\n' + m.content -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}
"""
TEMPLATES = {
    **{name: source for name, (source, _, _) in OWN.items()},
    **{name: find_format(name).template for name in FORMATS},
    "plain chatml": CHATML_TEMPLATE,
    "llama 2": LLAMA2_TEMPLATE,
    "smolvlm": SMOLVLM,
    "llama guard 3": LLAMA_GUARD3,
    "qwen3.5": QWEN35,
    "first system alone": FIRST_SYSTEM_ALONE,
    "last system alone": LAST_SYSTEM_ALONE,
    "deepseek": DEEPSEEK,
    "command r": COMMAND_R,
    "harmony": HARMONY,
    "glm": GLM,
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


@pytest.mark.parametrize(("name", "roles"), list(product(TEMPLATES, CONVERSATIONS)))
def test_every_message_is_written_once(name: str, roles: str) -> None:
    messages = conversation(roles)
    written = prompt(TEMPLATES[name], messages)
    assert [written.count(message.content) for message in messages] == [1] * len(messages)


@pytest.mark.parametrize(("name", "roles"), list(product(TEMPLATES, CONTINUED)))
def test_a_message_that_is_continued_ends_the_prompt(name: str, roles: str) -> None:
    messages = conversation(roles)
    written = prompt(TEMPLATES[name], messages, "message")
    assert written.endswith(messages[-1].content)
    assert [written.count(message.content) for message in messages] == [1] * len(messages)


@pytest.mark.parametrize("content", ["In ", "a\n", "<think>\nhm", "1. ", "\U000ffffd", " "])
def test_white_space_before_the_answer_stays(content: str) -> None:
    messages = [Message("user", "hi"), Message("assistant", content)]
    assert prompt(CHATML_TEMPLATE, messages, "message").endswith(f"assistant\n{content}")
    assert prompt(COMMAND_R, messages, "message").endswith(f"<|CHATBOT_TOKEN|>{content.lstrip()}")


def test_a_closed_prompt_opens_no_turn() -> None:
    written = prompt(CHATML_TEMPLATE, conversation("ua"), "closed")
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
    template = ChatTemplate(QWEN35)
    shape = template.shape(conversation("ssu"))
    monkeypatch.setattr(ChatTemplate, "render", lambda *_: pytest.fail("probed again"))
    assert template.shape(conversation("ssu")) is shape
