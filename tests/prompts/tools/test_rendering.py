"""Calls that a family's template writes are those that the family's parser reads."""

# ruff: noqa: RUF001 (DeepSeek's tags have bars of full width)

import json
from typing import NamedTuple

import pytest

from llmstream_cli.prompts import encode
from llmstream_cli.prompts.messages import Message, ToolCall, ToolChoice
from llmstream_cli.prompts.template import ChatTemplate
from llmstream_cli.prompts.tools import find_call_format
from tests.prompts.tools.test_families import EXPECTED, FULL, SAMPLES, TOOLS, read
from tests.prompts.tools.vocabulary import ByteVocabulary

CONTROL = {sample.family: sample.control for sample in SAMPLES}


class Style(NamedTuple):
    """How a template of a family, cut to what matters here, writes tools, calls and results."""

    tools: str  # given `tools`
    calls: str  # given `m`
    result: str  # given `m`
    checks: str = ""  # given `messages`
    sign: str = ""  # what else tells the family

    def template(self) -> str:
        return (
            f"{{#- {self.sign} -#}}{self.checks}{self.tools}"
            "{%- for m in messages -%}"
            "{%- if m.role in ('tool', 'ipython') -%}" + self.result + "{%- elif m.tool_calls -%}"
            "<answer>" + self.calls + "</answer>"
            "{%- else -%}{{- m.role + ': ' + m.content + '\\n' -}}{%- endif -%}"
            "{%- endfor -%}"
        )


def each(call: str, between: str = "") -> str:
    """Write every call: `c` is its function, `a` the arguments."""
    joined = f"{{%- if not loop.last -%}}{between}{{%- endif -%}}" if between else ""
    return (
        "{%- for t in m.tool_calls -%}{%- set c = t.function -%}{%- set a = c.arguments -%}"
        f"{call}{joined}{{%- endfor -%}}"
    )


LIST = "{%- if tools -%}<tools>{{- tools | tojson -}}</tools>{%- endif -%}"
RESULT = "<tool_response>{{- m.content -}}</tool_response>"
JSON = '{"name": "{{ c.name }}", "arguments": {{ a | tojson }}}'
VALUE = "{{ v if v is string else v | tojson }}"
ITEMS = "{%- for k, v in a | items -%}"
GEMMA_VALUE = """
{%- macro gemma(v) -%}
  {%- if v is string -%}{{- '<|"|>' + v + '<|"|>' -}}
  {%- elif v is boolean -%}{{- 'true' if v else 'false' -}}
  {%- elif v is mapping -%}{
    {%- for k, w in v | dictsort -%}{{- k + ':' + gemma(w) -}}
    {%- if not loop.last -%},{%- endif -%}{%- endfor -%}}
  {%- elif v is sequence -%}[
    {%- for w in v -%}{{- gemma(w) -}}{%- if not loop.last -%},{%- endif -%}{%- endfor -%}]
  {%- else -%}{{- v -}}{%- endif -%}
{%- endmacro -%}"""
STYLES = {
    "hermes": Style(
        LIST,
        each('<tool_call>\n{"name": "{{ c.name }}", "arguments": {{ a if a is string else a | '
             "tojson }}}\n</tool_call>", "\n"),
        RESULT,
    ),
    "qwen3-coder": Style(
        LIST,
        each("<tool_call>\n<function={{ c.name }}>\n" + ITEMS + "{{ '<parameter=' + k + '>\\n' }}"
             + VALUE + "{{ '\\n</parameter>\\n' }}{%- endfor -%}</function>\n</tool_call>", "\n"),
        RESULT,
    ),
    "llama-3": Style(
        LIST,
        "{%- if m.tool_calls | length != 1 -%}{{- raise_exception('one call') -}}{%- endif -%}"
        + each('{"name": "{{ c.name }}", "parameters": {{ a | tojson }}}'),
        "ipython: {{ m.content }}",
    ),
    "mistral-v3": Style(
        "{%- if tools -%}[AVAILABLE_TOOLS]{{- tools | tojson -}}[/AVAILABLE_TOOLS]{%- endif -%}",
        "[TOOL_CALLS][" + each(
            "{%- if t.id | length != 9 -%}{{- raise_exception('9') -}}{%- endif -%}"
            '{"name": "{{ c.name }}", "arguments": {{ a | tojson }}, "id": "{{ t.id }}"}', ", ")
        + "]",
        '[TOOL_RESULTS]{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}',
    ),
    "ministral-3": Style(
        LIST,
        each("[TOOL_CALLS]{{ c.name }}[ARGS]{{ a if a is string else a | tojson }}"),
        "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]",
    ),
    "granite-3": Style(
        LIST, "<|tool_call|>[" + each(JSON, ", ") + "]", RESULT, sign="<|start_of_role|>"
    ),
    "phi-4-mini": Style(
        "<|tool|>{{- tools | tojson -}}<|/tool|>",
        each(f"<|tool_call|>{JSON}<|/tool_call|>"),
        "<|tool_response|>{{- m.content -}}",
    ),
    "lfm2": Style(
        "<|tool_list_start|>{{- tools | tojson -}}<|tool_list_end|>",
        "<|tool_call_start|>[" + each(
            "{{ c.name }}(" + ITEMS + "{{ k }}={{ v if v is not boolean and v is number else "
            "(('True' if v else 'False') if v is boolean else v | tojson) }}"
            "{%- if not loop.last -%}, {% endif -%}{%- endfor -%})", ", ")
        + "]<|tool_call_end|>",
        RESULT,
    ),
    "gemma-4": Style(
        GEMMA_VALUE + LIST,
        each("{%- if a is string -%}{{- raise_exception('object') -}}{%- endif -%}"
             "<|tool_call>call:{{ c.name }}{{ gemma(a) }}<tool_call|>"),
        "<|tool_response>response:{{ m.name }}{value:{{ m.content }}}<tool_response|>",
    ),
    "deepseek-v3.1": Style(
        "",
        "<｜tool▁calls▁begin｜>" + each(
            "{{- '<｜tool▁call▁begin｜>' + c.name + '<｜tool▁sep｜>' + a -}}<｜tool▁call▁end｜>")
        + "<｜tool▁calls▁end｜>",
        "<｜tool▁output▁begin｜>{{- m.content -}}<｜tool▁output▁end｜>",
    ),
    "command-r7b": Style(
        LIST,
        "<|START_ACTION|>[" + each(
            '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.name }}", '
            '"parameters": {{ a | tojson }}}', ", ")
        + "]<|END_ACTION|>",
        "<|START_TOOL_RESULT|>{{- m.content -}}<|END_TOOL_RESULT|>",
    ),
    "glm-4": Style(
        LIST,
        each("<tool_call>{{ c.name }}\n" + ITEMS + "<arg_key>{{ k }}</arg_key>\n<arg_value>"
             + VALUE + "</arg_value>\n{% endfor %}</tool_call>", "\n"),
        RESULT,
    ),
    "kimi-k2": Style(
        LIST,
        "<|tool_calls_section_begin|>" + each(
            "<|tool_call_begin|>{{ t.id }}<|tool_call_argument_begin|>"
            "{{ a if a is string else a | tojson }}<|tool_call_end|>")
        + "<|tool_calls_section_end|>",
        "## Return of {{ m.tool_call_id }}\n{{ m.content }}",
    ),
}  # fmt: skip
FIRST = ToolCall("get_weather", json.dumps(FULL, ensure_ascii=False), "call_abc")
SECOND = ToolCall("get", "{}", "call_def")


@pytest.mark.parametrize("family", STYLES)
@pytest.mark.parametrize("calls", [(FIRST,), (FIRST, SECOND)], ids=["one", "two"])
def test_what_the_template_writes_is_what_the_parser_reads(
    family: str, calls: tuple[ToolCall, ...]
) -> None:
    if family == "llama-3" and len(calls) > 1:
        calls = calls[1:]
    source = STYLES[family].template()
    vocabulary = ByteVocabulary(*CONTROL[family])
    found = find_call_format(source, vocabulary)
    assert found.family.name == family
    messages = (
        Message("user", "Weather?"),
        Message("assistant", tool_calls=calls),
        *(Message("tool", f"result of {call.name}", tool_call_id=call.id) for call in calls),
        Message("user", "And now?"),
    )
    tokens = encode.encode_chat(
        vocabulary, ChatTemplate(source), messages, ctx_size=100_000, tools=TOOLS
    )
    pieces = (
        bytes([t]) if t < 256 else found.marks[t] for t in tokens if t < 256 or t in found.marks
    )
    prompt = b"".join(pieces).decode()
    assert all(f"result of {call.name}" in prompt for call in calls)
    before, _, written = prompt.partition("<answer>")
    assert all(f'"{tool.name}"' in before for tool in TOOLS)
    parser = found.parser(TOOLS, ToolChoice(), begun=False)
    reading = read(parser, written.partition("</answer>")[0])
    known = dict(zip(("full", "brief", "none"), EXPECTED, strict=True))
    assert reading.text == ""
    assert reading.values() == [known["full"] if call is FIRST else known["none"] for call in calls]
