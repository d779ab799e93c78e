"""Tools as the dialects read them, and how calls are answered."""

from typing import Any

import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolChoice
from llmstream_cli.server.dialects.tools import (
    MAX_TOOLS_CHARS,
    Definition,
    arguments_text,
    choose,
    defaults_beside,
    link_results,
    new_call_id,
    read_tools,
)

CITY = {"properties": {"city": {"type": "string"}}}


def definition(**fields: Any) -> Definition:
    return Definition(
        **{"field": "tools.0", "name": "f", "description": None, "schema": None, **fields}
    )


# ---- definitions ----------------------------------------------------------------------------


def test_a_tool_without_a_schema_takes_an_object() -> None:
    one, other = definition(schema=CITY, description="Tell."), definition(name="g", schema={})
    schema = '{"type":"object","properties":{"city":{"type":"string"}}}'
    assert read_tools([one, other]) == (Tool("f", "Tell.", schema), Tool("g"))


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"name": "g"}, "tools.1.name", "tools.1.name is g, and so is another tool's"),
        ({"schema": {"type": "array"}}, "tools.1.parameters.type", 'must be "object"'),
        ({"schema": {"properties": 5}}, "tools.1.parameters", "JSON schema: properties must be"),
        ({"schema": {"description": "a" * 65536}}, "tools.1.parameters", "at most 65536"),
        ({"description": "a" * MAX_TOOLS_CHARS}, "tools", "at most 524288"),
    ],
)
def test_an_error_names_the_field(more: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_tools([definition(name="g"), definition(**{"field": "tools.1", **more})])
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert message in str(caught.value)


def test_a_choice_is_of_tools_that_there_are() -> None:
    tools = [Tool("f"), Tool("g")]
    assert choose(tools, "required", ["g", "g"]) == ToolChoice("required", ("g",))
    assert choose([], "none") == ToolChoice("none")
    for given, names in ((tools, ["h"]), ([], [])):
        with pytest.raises(InvalidValueError, match=r"^tool_choice ") as caught:
            choose(given, "required", names)
        assert caught.value.field == "tool_choice"


def test_a_constraint_of_the_text_excludes_tools_and_a_default_gives_way() -> None:
    tools, defaults = [Tool("f")], SamplingParams(regex="a", seed=3)
    given = [("response_format", "json_schema", "{}")]
    assert defaults_beside(tools, ToolChoice(), defaults, []) == SamplingParams(seed=3)
    for none, choice in ((tools, ToolChoice("none")), ([], ToolChoice())):
        assert defaults_beside(none, choice, defaults, given) == defaults
    with pytest.raises(InvalidValueError, match=r"^response_format and tools exclude") as caught:
        defaults_beside(tools, ToolChoice(), defaults, given)
    assert caught.value.field == "response_format"


# ---- calls and results ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "{}"),
        ("", "{}"),
        ({}, "{}"),
        ({"city": "Zürich"}, '{"city":"Zürich"}'),
        ('{"city": "Bern"}', '{"city": "Bern"}'),
        ('{"city": "Be', '{"city": "Be'),  # of a call that was cut
    ],
)
def test_arguments_are_text(given: Any, text: str) -> None:
    assert arguments_text(given) == text


def test_results_are_linked_to_their_calls() -> None:
    calls = ToolCall("f", id="1"), ToolCall("g", id="2"), ToolCall("f", id="3")
    results = [
        Message("tool", "a", tool_call_id="3"),
        Message("tool", "b", tool_name="f"),
        Message("tool", "c"),
        Message("tool", "d", tool_call_id="9"),
    ]
    _, *linked = link_results([Message("assistant", tool_calls=calls), *results])
    assert [(one.tool_call_id, one.tool_name) for one in linked] == [
        ("3", "f"),
        ("1", "f"),
        ("2", "g"),
        ("9", ""),
    ]


def test_ids_of_calls_are_distinct() -> None:
    assert len({new_call_id() for _ in range(1000)}) == 1000
    assert new_call_id("toolu_").startswith("toolu_")
