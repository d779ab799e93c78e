"""Each family's calls, as its models write them."""

# ruff: noqa: ISC004, RUF001 (DeepSeek's tags have bars of full width)

import codecs
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Tool, ToolCall, ToolChoice
from llmstream_cli.prompts.tools import CallFormat, CallParser, find_call_format
from tests.prompts.tools.vocabulary import ByteVocabulary, accepts, write

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where."},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "wind": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "at": {
            "type": "object",
            "properties": {"lat": {"type": "number"}, "name": {"type": "string"}},
            "required": ["lat"],
        },
    },
    "required": ["city"],
}
TOOLS = (Tool("get_weather", "Tell it.", json.dumps(SCHEMA)), Tool("get"))
FULL = {
    "city": "São Paulo",
    "days": 3,
    "unit": "C",
    "wind": True,
    "tags": ["a", "b"],
    "at": {"lat": 1.5, "name": "x"},
}
BRIEF = {"city": "Rome"}
DUMPED = json.dumps(FULL, ensure_ascii=False)


class Sample(NamedTuple):
    """A family, what its template and vocabulary have, and three calls: FULL, BRIEF and none."""

    family: str
    template: str
    control: tuple[str, ...]
    opening: str
    calls: tuple[str, str, str]
    between: str
    end: str = ""

    def write(self, *numbers: int, opening: bool = True) -> str:
        calls = self.between.join(self.calls[number] for number in numbers)
        return f"{self.opening * opening}{calls}{self.end}"


def calls(form: str) -> tuple[str, str, str]:
    """Three calls of a form that has JSON objects."""
    return (
        form.replace("NAME", "get_weather").replace("ARGS", DUMPED),
        form.replace("NAME", "get_weather").replace("ARGS", '{"city": "Rome"}'),
        form.replace("NAME", "get").replace("ARGS", "{}"),
    )


def xml(name: str, **values: Any) -> str:
    parts = [f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items()]
    return f"\n<function={name}>\n{''.join(parts)}</function>\n</tool_call>"


def glm(name: str, **values: Any) -> str:
    parts = [
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
        for key, value in values.items()
    ]
    return f"{name}\n{''.join(parts)}</tool_call>"


TEXTS = {key: value if isinstance(value, str) else json.dumps(value) for key, value in FULL.items()}
OBJECT = '{"name": "NAME", "arguments": ARGS}'
CALL_ID = "abc123XYZ"
SAMPLES = (
    Sample("generic", "", (), "<tool_call>", calls(f"\n{OBJECT}\n</tool_call>"), "\n<tool_call>"),
    Sample(
        "hermes",
        "<tool_call>",
        ("<tool_call>", "</tool_call>"),
        "<tool_call>",
        calls(f"{OBJECT}</tool_call>"),
        "<tool_call>",
    ),
    Sample(
        "qwen3-coder",
        "<tool_call> <function=x> <parameter=",
        (),
        "<tool_call>",
        (xml("get_weather", **TEXTS), xml("get_weather", **BRIEF), xml("get")),
        "\n<tool_call>",
    ),
    Sample(
        "llama-3", 'ipython {"name": x, "parameters": y}', ("<|python_tag|>",), "",
        calls('{"name": "NAME", "parameters": ARGS}'), "",
    ),
    Sample(
        "mistral-v3", "[TOOL_CALLS]", ("[TOOL_CALLS]",), "[TOOL_CALLS] [",
        calls(f'{{"name": "NAME", "arguments": ARGS, "id": "{CALL_ID}"}}'), ", ", "]",
    ),
    Sample(
        "mistral-small-3.2",
        "[TOOL_CALLS] [CALL_ID] [ARGS]",
        ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
        "[TOOL_CALLS]",
        calls(f"NAME[CALL_ID]{CALL_ID}[ARGS]ARGS".replace("[ARGS]ARGS", "[ARG_S]ARGS")),
        "[TOOL_CALLS]",
    ),
    Sample(
        "ministral-3", "[TOOL_CALLS] [ARGS]", ("[TOOL_CALLS]", "[ARGS]"), "[TOOL_CALLS]",
        calls("NAME[ARG_S]ARGS"), "[TOOL_CALLS]",
    ),
    Sample(
        "granite-3", "<|start_of_role|>", ("<|tool_call|>",), "<|tool_call|>[",
        calls(OBJECT), ", ", "]",
    ),
    Sample(
        "phi-4-mini", "<|tool|>", ("<|tool_call|>", "<|/tool_call|>"), "<|tool_call|>",
        calls(f"{OBJECT}<|/tool_call|>"), "<|tool_call|>",
    ),
    Sample(
        "lfm2",
        "<|tool_list_start|>",
        ("<|tool_call_start|>", "<|tool_call_end|>"),
        "<|tool_call_start|>[",
        (
            'get_weather(city="São Paulo", days=3, unit="C", wind=True, tags=["a", "b"], '
            'at={"lat": 1.5, "name": "x"})',
            'get_weather(city="Rome")',
            "get()",
        ),
        ", ",
        "]<|tool_call_end|>",
    ),
    *(
        Sample(
            family,
            opening,
            (opening, closing, quote),
            opening,
            (
                f"call:get_weather{{at:{{lat:1.5,name:{quote}x{quote}}},"
                f"city:{quote}São Paulo{quote},days:3,"
                f"tags:[{quote}a{quote},{quote}b{quote}],unit:{quote}C{quote},wind:true}}{closing}",
                f"call:get_weather{{city:{quote}Rome{quote}}}{closing}",
                f"call:get{{}}{closing}",
            ),
            opening,
        )
        for family, opening, closing, quote in (
            ("gemma-4", "<|tool_call>", "<tool_call|>", '<|"|>'),
            ("functiongemma", "<start_function_call>", "<end_function_call>", "<escape>"),
        )
    ),
    Sample(
        "deepseek-r1",
        "<｜tool▁calls▁begin｜> ```json",
        (
            *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
            *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
        ),
        "<｜tool▁calls▁begin｜>",
        calls("<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGS\n```<｜tool▁call▁end｜>"),
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
    Sample(
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜>",
        (
            *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>"),
            *("<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
        ),
        "<｜tool▁calls▁begin｜>",
        calls("<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGS<｜tool▁call▁end｜>"),
        "",
        "<｜tool▁calls▁end｜>",
    ),
    Sample(
        "command-r7b", "<|START_ACTION|>", ("<|START_ACTION|>", "<|END_ACTION|>"),
        "<|START_ACTION|>[\n    ",
        calls('{"tool_call_id": "0", "tool_name": "NAME", "parameters": ARGS}'),
        ",\n    ", "\n]<|END_ACTION|>",
    ),
    Sample(
        "glm-4", "<tool_call> <arg_key>", (), "<tool_call>",
        (glm("get_weather", **TEXTS), glm("get_weather", **BRIEF), glm("get")), "\n<tool_call>",
    ),
    Sample(
        "kimi-k2",
        "<|tool_calls_section_begin|>",
        (
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
            *("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        ),
        "<|tool_calls_section_begin|>",
        calls("<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGS<|tool_call_end|>"),
        "",
        "<|tool_calls_section_end|>",
    ),
)  # fmt: skip
IDS = [sample.family for sample in SAMPLES]
EXPECTED = [("get_weather", FULL), ("get_weather", BRIEF), ("get", {})]


def prepare(sample: Sample) -> Sample:
    """Return a sample in which `[ARGS]` is the tag again."""
    one, two, three = (call.replace("[ARG_S]", "[ARGS]") for call in sample.calls)
    return sample._replace(calls=(one, two, three))


SAMPLES = tuple(map(prepare, SAMPLES))
parametrized = pytest.mark.parametrize("sample", SAMPLES, ids=IDS)


def load(sample: Sample) -> tuple[ByteVocabulary, CallFormat]:
    vocabulary = ByteVocabulary(*sample.control)
    found = find_call_format(sample.template, vocabulary)
    assert found.family.name == sample.family
    return vocabulary, found


class Reading(NamedTuple):
    text: str
    calls: list[ToolCall]
    rest: str | None

    def values(self) -> list[tuple[str, Any]]:
        return [(call.name, json.loads(call.arguments)) for call in self.calls]


def read(parser: CallParser, parts: Iterable[str]) -> Reading:
    text, rest = "", None
    names: list[str] = []
    arguments: list[str] = []

    def add(pushed: tuple[str, tuple[Any, ...]]) -> None:
        nonlocal text
        assert not (pushed[0] and names), "text behind a call"
        text += pushed[0]
        for delta in pushed[1]:
            assert bool(delta.name) == (delta.index == len(names))
            if delta.name:
                names.append(delta.name)
                arguments.append("")
            arguments[-1] += delta.arguments

    for part in parts:
        add(parser.push(part))
        rest = parser.rest if rest is None else rest
    add(parser.flush())
    assert parser.num_calls == len(names)
    return Reading(text, [*map(ToolCall, names, arguments)], rest)


def characters(sample: Sample, text: str) -> str:
    """What the parser is given of a text whose control tokens are meant."""
    vocabulary, found = load(sample)
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces = (found.marks.get(token, piece) for token, piece in write(vocabulary, text))
    return "".join(map(decoder.decode, pieces))


def parse(sample: Sample, text: str, size: int = 1, **options: Any) -> Reading:
    _, found = load(sample)
    seen = characters(sample, text)
    choice = ToolChoice(parallel=options.pop("parallel", True))
    parser = found.parser(TOOLS, choice, begun=options.pop("begun", False))
    return read(parser, (seen[at : at + size] for at in range(0, len(seen), size)))


@parametrized
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_each_call_is_read(sample: Sample, size: int) -> None:
    for number in range(3):
        before = "Let me see.\n\n" if sample.opening else ""
        reading = parse(sample, before + sample.write(number), size)
        assert reading.text == before.rstrip()
        assert reading.values() == [EXPECTED[number]]
        assert reading.rest is not None


@parametrized
def test_several_calls_are_read(sample: Sample) -> None:
    if sample.family == "llama-3":  # which writes one
        assert parse(sample, sample.write(0) + sample.write(1)).values() == EXPECTED[:1]
        return
    assert parse(sample, sample.write(0, 2, 1)).values() == [EXPECTED[n] for n in (0, 2, 1)]
    assert parse(sample, sample.write(0, 2), parallel=False).values() == EXPECTED[:1]


@parametrized
def test_the_grammar_takes_what_the_parser_reads(sample: Sample) -> None:
    vocabulary, found = load(sample)

    def takes(text: str, choice: ToolChoice = ToolChoice(), *, begun: bool = False) -> bool:  # noqa: B008
        grammar = found.grammar(TOOLS, choice, begun=begun)
        return accepts(vocabulary, grammar, vocabulary.tokenize(text, special=True))

    opening = found.family.opening
    for number in range(3):
        text = sample.write(number)
        assert takes(text)
        assert takes(text.removeprefix(opening), begun=True)
        assert takes(text, ToolChoice(parallel=False))
        only = ToolChoice("required", ("get",))
        assert takes(text, only) == (number == 2)
    several = sample.write(0, 2, 1)
    assert takes(several) == (sample.family != "llama-3")
    assert not takes(several, ToolChoice(parallel=False))
    assert not takes("Hi " + sample.write(0))
    assert not takes(sample.write(0) + "Hi")
    assert not takes(sample.write(1).replace("city", "town"))
    assert not takes(sample.write(1).replace("get_weather", "get_time"))
    assert not takes(sample.write(0).replace("3", "three", 1))
    assert not takes(sample.write(2).replace("get", "get_weather"))


@parametrized
def test_a_cut_call_keeps_what_was_announced(sample: Sample) -> None:
    whole = characters(sample, sample.write(0))
    _, found = load(sample)
    full = parse(sample, sample.write(0)).calls[0]
    for end in range(len(whole)):
        reading = read(found.parser(TOOLS, ToolChoice(), begun=False), whole[:end])
        if reading.calls:
            assert not reading.text
            assert reading.calls[0].name == full.name
            assert full.arguments.startswith(reading.calls[0].arguments)
        else:
            assert reading.text == "".join(c for c in whole[:end] if not "\ufdd8" <= c <= "\ufdef")


@parametrized
@given(data=st.data())
def test_what_is_read_does_not_depend_on_the_cuts(sample: Sample, data: st.DataObject) -> None:
    _, found = load(sample)
    whole = sample.write(0, 2)
    pieces = [
        *(whole[n : n + 9] for n in range(0, len(whole), 9)),
        whole,
        "\n",
        "Hi ",
        *sample.control,
    ]
    text = characters(sample, "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=8))))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def once(parts: list[str]) -> tuple[str, list[ToolCall]]:
        return read(found.parser(TOOLS, ToolChoice(), begun=False), parts)[:2]

    assert once(parts) == once([text])


@parametrized
def test_tags_in_prose_are_text(sample: Sample) -> None:
    _, found = load(sample)
    for text in (
        f"Calls begin with {sample.opening or 'a brace'} and end.",
        f"{sample.opening}",
        f"{sample.opening}get_time is a tool",
        'Use {"name": "get", "arguments": {}} so.',
        f"\n {sample.opening}\nno\n",
    ):
        # What is spelled, be it a control token in this vocabulary, is no more than text.
        reading = read(found.parser(TOOLS, ToolChoice(), begun=False), text)
        assert (reading.text, reading.calls) == (text, [])


@parametrized
def test_a_call_that_has_begun_is_read_on(sample: Sample) -> None:
    _, found = load(sample)
    text = sample.write(0, opening=True).removeprefix(found.family.opening)
    assert parse(sample, text, begun=True).values() == EXPECTED[:1]


@parametrized
def test_arguments_can_be_held_to_another_grammar(sample: Sample) -> None:
    vocabulary, found = load(sample)
    asked: list[str] = []

    def arguments(tool: Tool) -> str:
        asked.append(tool.name)
        return "%json {}"

    grammar = found.grammar(TOOLS, ToolChoice(), begun=False, arguments=arguments)
    assert "get_weather" in asked
    assert accepts(vocabulary, grammar, vocabulary.tokenize(sample.write(0), special=True))


@parametrized
def test_schemas_as_the_core_gives_them_are_read_the_same(sample: Sample) -> None:
    vocabulary, found = load(sample)
    tools = [
        replace(tool, parameters=json.dumps(read_schema(tool.parameters).schema)) for tool in TOOLS
    ]
    text = sample.write(0)
    grammar = found.grammar(tools, ToolChoice(), begun=False)
    assert accepts(vocabulary, grammar, vocabulary.tokenize(text, special=True))
    reading = read(found.parser(tools, ToolChoice(), begun=False), characters(sample, text))
    assert reading.values() == EXPECTED[:1]


def test_a_schema_that_cannot_be_written_one_by_one_is_refused() -> None:
    sample = SAMPLES[IDS.index("qwen3-coder")]
    _, found = load(sample)
    tool = Tool("odd", "", '{"type": "object", "anyOf": [{"required": ["a"]}]}')
    with pytest.raises(InvalidValueError, match=r"'odd'.*'anyOf'"):
        found.grammar([tool], ToolChoice(), begun=True)


def test_a_string_of_a_pattern_is_written_as_json() -> None:
    sample = SAMPLES[IDS.index("qwen3-coder")]
    vocabulary, found = load(sample)
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[0-9]$"}}}
    tools = [Tool("f", "", json.dumps(schema))]
    grammar = found.grammar(tools, ToolChoice(), begun=False)
    text = "<tool_call>" + xml("f", a='"1"')
    assert accepts(vocabulary, grammar, text.encode())
    assert not accepts(vocabulary, grammar, text.replace('"1"', "1").encode())
    reading = read(found.parser(tools, ToolChoice(), begun=False), text)
    assert reading.values() == [("f", {"a": "1"})]
