"""Calls are told from text, however the text was cut."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.prompts.messages import Tool, ToolCall, ToolChoice
from llmstream_cli.prompts.tools import find_call_format
from tests.prompts.tools.vocabulary import ByteVocabulary, accepts

WEATHER = Tool(
    "get_weather",
    "Tell the weather.",
    '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}',
)
TOOLS = (WEATHER, Tool("get"))
BYTES = ByteVocabulary()
GENERIC = find_call_format(None, BYTES)
CALL = '\n{"name": "get_weather", "arguments": {"city": "A </tool_call> \\"B\\""}}\n</tool_call>'
OTHER = '\n<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'


def read(parts: Sequence[str]) -> tuple[str, list[ToolCall]]:
    parser = GENERIC.parser(TOOLS, ToolChoice(), begun=False)
    pushed = [*map(parser.push, parts), parser.flush()]
    names: list[str] = []
    arguments: list[str] = []
    for delta in (delta for _, calls in pushed for delta in calls):
        assert bool(delta.name) == (delta.index == len(names))
        if delta.name:
            names.append(delta.name)
            arguments.append("")
        arguments[-1] += delta.arguments
    assert parser.num_calls == len(names)
    return "".join(text for text, _ in pushed), list(map(ToolCall, names, arguments))


@given(st.data())
def test_what_is_read_does_not_depend_on_the_cuts(data: st.DataObject) -> None:
    pieces = [
        "<tool_call>",
        CALL,
        OTHER,
        "\n",
        "Use <tool_call> so. ",
        '{"name": "get',
        "</tool_call>",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=6)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(parts) == read([text])


def test_calls_come_after_their_text() -> None:
    text, calls = read([f"Use <tool_call> so.\n\n<tool_call>{CALL}{OTHER}"])
    assert text == "Use <tool_call> so."
    city = '{"city": "A </tool_call> \\"B\\""}'
    assert calls == [ToolCall("get_weather", city), ToolCall("get", "{}")]


def test_the_grammar_takes_what_the_parser_reads() -> None:
    begun = GENERIC.grammar(TOOLS, ToolChoice(), begun=True)
    whole = GENERIC.grammar(TOOLS, ToolChoice(), begun=False)
    single = GENERIC.grammar(TOOLS, ToolChoice(parallel=False), begun=True)
    assert accepts(BYTES, begun, CALL.encode())
    assert accepts(BYTES, begun, (CALL + OTHER).encode())
    assert accepts(BYTES, whole, f"<tool_call>{CALL}".encode())
    assert not accepts(BYTES, single, (CALL + OTHER).encode())
    assert not accepts(BYTES, begun, CALL.replace("city", "town").encode())
    assert not accepts(BYTES, begun, CALL.replace("get_weather", "get_time").encode())
