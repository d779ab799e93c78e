"""Functions that the model may call: read from files, shown, confirmed, run."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.api import Chunk, FinishReason, GenerationRequest
from llmstream_cli.cli.ask import tools
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.options import ToolOptions
from llmstream_cli.cli.ask.tools import MAX_ROUNDS, Toolbox
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.messages import Message, Tool, ToolCall, ToolCallDelta

WEATHER = '''
"""Of a city."""
from pathlib import Path

def weather(city: str, days: int = 1) -> dict:
    """Tell the weather.

    Args: the city."""
    return {"city": city, "days": days}

def fail(why: str) -> str:
    raise RuntimeError(why)

def _private() -> None: ...
'''


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "weather.py"
    path.write_text(WEATHER, "utf-8")
    return str(path)


def calling(*calls: tuple[str, str], reason: FinishReason = FinishReason.TOOL_CALLS) -> Answer:
    answer = Answer(0.0)
    answer.add(Chunk("Let me see."))
    for index, (name, arguments) in enumerate(calls):
        answer.add(Chunk("", tool_calls=(ToolCallDelta(index, name, arguments[:3]),)))
        answer.add(Chunk("", tool_calls=(ToolCallDelta(index, "", arguments[3:]),)))
    answer.add(Chunk("", finish_reason=reason))
    return answer


def request_with(found: tuple[Tool, ...]) -> GenerationRequest:
    return GenerationRequest((Message("user", "?"),), tools=found)


def test_public_functions_become_tools_with_docstring_and_schema(file: str) -> None:
    weather, fail = Toolbox(ToolOptions([file])).tools
    assert (weather.name, fail.name) == ("weather", "fail")
    assert weather.description == "Tell the weather.\n\nArgs: the city."
    schema = json.loads(weather.parameters)
    assert schema["properties"]["city"]["type"] == "string"
    assert schema["required"] == ["city"]


def test_calls_are_run_and_their_results_sent_back(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    toolbox = Toolbox(ToolOptions([file], yes=True))
    answer = calling(("weather", '{"city": "Paris"}'), ("fail", '{"why": "no"}'))
    request = toolbox.go_on(request_with(toolbox.tools), answer)
    assert request is not None
    said, first, second = request.messages[1:]
    assert said.tool_calls[0] == ToolCall("weather", '{"city": "Paris"}', first.tool_call_id)
    assert (said.content, first.content) == ("Let me see.", '{"city": "Paris", "days": 1}')
    assert second.content == "error: RuntimeError: no"
    assert first.tool_call_id != second.tool_call_id
    assert request.tools == toolbox.tools
    shown = capsys.readouterr().err
    assert 'weather({"city": "Paris"})\n  {"city": "Paris", "days": 1}\n' in shown


def test_nothing_runs_without_a_yes(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toolbox = Toolbox(ToolOptions([file]))
    agreed = iter((False, True))
    monkeypatch.setattr(tools, "_user_agrees", lambda: next(agreed))
    answer = calling(("weather", '{"city": "a"}'), ("weather", '{"city": "b"}'))
    request = toolbox.go_on(request_with(toolbox.tools), answer)
    assert request is not None
    assert [message.content for message in request.messages[2:]] == [
        "error: the user did not allow this call",
        '{"city": "b", "days": 1}',
    ]


def test_arguments_that_do_not_fit_are_told_to_the_model(file: str) -> None:
    toolbox = Toolbox(ToolOptions([file], yes=True))
    answer = calling(("weather", '{"city": "a", "days": "many"}'))
    request = toolbox.go_on(request_with(toolbox.tools), answer)
    assert request is not None
    assert "days" in request.messages[-1].content


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_an_answer_that_calls_nothing_or_is_cut_is_the_last(file: str, reason: Any) -> None:
    toolbox = Toolbox(ToolOptions([file], yes=True))
    assert toolbox.go_on(request_with(toolbox.tools), calling(reason=reason)) is None
    cut = calling(("weather", '{"ci'), reason=reason)
    assert toolbox.go_on(request_with(toolbox.tools), cut) is None


def test_rounds_of_calls_come_to_an_end(file: str) -> None:
    toolbox = Toolbox(ToolOptions([file], yes=True))
    request = request_with(toolbox.tools)
    for _ in range(MAX_ROUNDS):
        assert request.tools
        following = toolbox.go_on(request, calling(("weather", '{"city": "a"}')))
        assert following is not None
        request = following
    assert not request.tools


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.py", "x = 1", "it has no public function"),
        ("a.py", "def f(:", "SyntaxError"),
        ("a.py", "raise ValueError('x')", "ValueError: x"),
        ("a.py", "async def f(): ...", "asynchronous"),
        ("a.py", "def f(a, /): ...", "without names"),
        ("a.py", "def f(*a: int): ...", "without names"),
        ("a.txt", "def f(): ...", "a file of Python"),
    ],
)
def test_files_that_are_no_tools_are_refused(
    tmp_path: Path, name: str, text: str, why: str
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(InvalidValueError, match=why):
        Toolbox(ToolOptions([str(tmp_path / name)]))


def test_a_missing_file_and_a_name_twice_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidValueError, match="FileNotFoundError"):
        Toolbox(ToolOptions([str(tmp_path / "missing.py")]))
    with pytest.raises(InvalidValueError, match=r"has weather\(\) already"):
        Toolbox(ToolOptions([file, file]))


def test_whoever_is_asked_sees_the_whole_call(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_user_agrees", lambda: False)
    toolbox = Toolbox(ToolOptions([file]))
    arguments = json.dumps({"city": "a" * 5000 + "the end"})
    toolbox.go_on(request_with(toolbox.tools), calling(("weather", arguments)))
    assert "the end" in capsys.readouterr().err


@pytest.mark.parametrize("body", ["return {(1, 2): 3}", "raise SystemExit", "return open"])
def test_whatever_a_function_does_the_model_hears_of_it(tmp_path: Path, body: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f"def odd():\n    {body}\n", "utf-8")
    toolbox = Toolbox(ToolOptions([str(path)], yes=True))
    request = toolbox.go_on(request_with(toolbox.tools), calling(("odd", "{}")))
    assert request is not None
    assert request.messages[-1].content
