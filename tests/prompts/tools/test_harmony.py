"""Calls of gpt-oss, whose messages the splitter of the reasoning reads."""

import json

import pytest

from llmstream_cli.core import reasoning
from llmstream_cli.core.output import OutputStream
from llmstream_cli.core.reasoning import HarmonySplitter
from llmstream_cli.prompts.messages import Tool, ToolCallDelta, ToolChoice
from llmstream_cli.prompts.tools import find_call_format
from tests.prompts.tools.vocabulary import ByteVocabulary, accepts, write

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOLS = (Tool("get_weather", "Tell it.", json.dumps(SCHEMA)), Tool("get"))
BYTES = ByteVocabulary(*reasoning.MARKERS)
FOUND = find_call_format("", BYTES)
MARKS = {token.id: reasoning.MARKERS[token.text].encode() for token in BYTES.control_tokens()}
ANALYSIS = "<|channel|>analysis<|message|>Hm, to=functions.get.<|end|><|start|>assistant"
PREAMBLE = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
CALL = 'get_weather <|constrain|>json<|message|>{"n": 1}'
HEADER = "<|channel|>commentary to=functions."
RECIPIENT_FIRST = (
    ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"n": 1}'
)


def answer(text: str) -> tuple[str, str, list[ToolCallDelta], str | None]:
    parser = FOUND.parser(TOOLS, ToolChoice(), begun=False)
    splitter = HarmonySplitter(MARKS, has_tools=True)
    splitter.skip(f"{reasoning.START}assistant")
    stream = OutputStream((), splitter, parser, FOUND.marks)
    deltas, rest = [], None
    for token, piece in write(BYTES, text):
        deltas.append(stream.push(piece, token))
        begun = stream.take_begun()
        rest = begun if rest is None else rest
    deltas.append(stream.flush())
    calls = [call for delta in deltas for call in delta.tool_calls]
    thought = "".join(delta.reasoning for delta in deltas)
    return "".join(delta.text for delta in deltas), thought, calls, rest


@pytest.mark.parametrize("call", [HEADER + CALL, RECIPIENT_FIRST])
@pytest.mark.parametrize("before", ["", ANALYSIS, ANALYSIS + PREAMBLE])
def test_a_call_is_read_behind_what_stands_before_it(before: str, call: str) -> None:
    text, thought, calls, rest = answer(before + call)
    assert text == ("I look." if PREAMBLE in before else "")
    assert thought == ("Hm, to=functions.get." if before else "")
    assert [(call.index, call.name) for call in calls if call.name] == [(0, "get_weather")]
    assert "".join(call.arguments for call in calls) == '{"n": 1}'
    assert rest == ""


def test_what_calls_no_known_tool_is_text() -> None:
    text, _, calls, _ = answer(f"{HEADER}get_time<|message|>{{}}")
    assert (text, calls) == ("get_time{}", [])


def test_the_grammar_takes_what_the_parser_reads() -> None:
    def takes(text: str, *, begun: bool) -> bool:
        grammar = FOUND.grammar(TOOLS, ToolChoice("required"), begun=begun)
        return accepts(BYTES, grammar, BYTES.tokenize(text, special=True))

    assert takes(HEADER + CALL, begun=False)
    assert takes(CALL, begun=True)
    assert takes(RECIPIENT_FIRST.removeprefix(" to=functions."), begun=True)
    assert not takes(CALL.replace("1", '"1"'), begun=True)
    assert not takes(CALL.replace("get_weather", "get_time"), begun=True)


def test_both_readers_mean_the_same_by_a_character() -> None:
    family = FOUND.family
    assert family.given == reasoning.CALL
    assert family.given_tokens.items() <= reasoning.MARKERS.items()
