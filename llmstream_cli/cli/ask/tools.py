"""Functions of the user's own that the model may call: `--tool FILE.py`.

Every public function of the file is a tool: its name, its docstring, and a JSON schema made from
its type hints, which its arguments are checked against. Each call is shown, and runs when the user
says so, or at once with `--yes`.
"""

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstream_cli.api import FinishReason, GenerationRequest
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, one_line
from llmstream_cli.prompts.messages import Message, Tool, ToolCall

if TYPE_CHECKING:
    from llmstream_cli.cli.ask.options import ToolOptions

MAX_ROUNDS = 16  # of calls for one question; the next answer is asked for without tools
MAX_RESULT_CHARS = 64 * 1024
_MAX_SHOWN = 200  # characters of a call, and of its result


class Toolbox:
    """The functions of some files, and whether they run without a question."""

    def __init__(self, options: "ToolOptions") -> None:
        self._asks = not options.yes
        self._functions: dict[str, Callable[..., Any]] = {}
        for file in options.tool or ():
            for name, function in _functions_of(file):
                if name in self._functions:
                    raise InvalidValueError(f"--tool {file}: another file has {name}() already")
                self._functions[name] = function
        self.tools = tuple(_tool(name, one) for name, one in self._functions.items())

    def go_on(self, request: GenerationRequest, answer: Answer) -> GenerationRequest | None:
        """Run what an answer calls; return what to ask next, None if it calls nothing.

        Calls that the token limit has cut are not run: they are the end of the answer.
        """
        if answer.finish_reason is not FinishReason.TOOL_CALLS:
            return None
        rounds = sum(bool(message.tool_calls) for message in request.messages)
        calls = tuple(
            ToolCall(name, arguments, f"call_{rounds}_{index}")
            for index, (name, arguments) in enumerate(answer.calls)
        )
        said = Message("assistant", answer.text, answer.reasoning, tool_calls=calls)
        results = [
            Message("tool", self._run(call), tool_call_id=call.id, tool_name=call.name)
            for call in calls
        ]
        tools = () if rounds + 1 >= MAX_ROUNDS else request.tools
        return replace(request, messages=(*request.messages, said, *results), tools=tools)

    def _run(self, call: ToolCall) -> str:
        """Return what a function returns, as text, or why it does not."""
        # All of it where the user is to say yes to it.
        told = without_controls(f"{call.name}({call.arguments})")
        write_stderr((told if self._asks else _shown(told)) + "\n")
        if self._asks and not _user_agrees():
            write_stderr("  not run\n")
            return "error: the user did not allow this call"
        try:
            result = self._functions[call.name](**json.loads(call.arguments))
            text = result if isinstance(result, str) else json.dumps(result, default=str)
        # Whatever a function raises, and what pydantic says of its arguments, is for the model.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            text = f"error: {type(error).__name__}: {error}"
        write_stderr(f"  {_shown(text)}\n")
        return text[:MAX_RESULT_CHARS]


def _functions_of(file: str) -> Sequence[tuple[str, Callable[..., Any]]]:
    """Run a file of Python, and return its public functions in order.

    Raises:
        InvalidValueError: it cannot be run, or has none.
    """
    from pydantic import validate_call

    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"llmstream_tool_{path.stem}", path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise InvalidValueError(f"--tool {file}: it must be a file of Python, FILE.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where type hints are looked up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise InvalidValueError(
            f"--tool {file}: {type(error).__name__}: {one_line(error)}"
        ) from error
    found = [
        (name, validate_call(function))
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == spec.name
        and not name.startswith("_")
    ]
    if not found:
        raise InvalidValueError(f"--tool {file}: it has no public function")
    return found


def _tool(name: str, function: Any) -> Tool:
    """Return a function as the model sees it."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    if inspect.iscoroutinefunction(function):
        raise InvalidValueError(f"--tool: {name}() is asynchronous; write it without async")
    try:
        schema = TypeAdapter(function).json_schema()
    except PydanticUserError as error:
        raise InvalidValueError(f"--tool: {name}(): {one_line(error.message)}") from error
    if schema.get("type") != "object":
        raise InvalidValueError(f"--tool: {name}() takes arguments without names; name them")
    return Tool(name, inspect.getdoc(function) or "", json.dumps(schema))


def _user_agrees() -> bool:
    """Ask whether to run the call that is shown; no without a terminal to answer on."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    write_stderr("  run it? [y/N] ")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _shown(text: str) -> str:
    line = " ".join(without_controls(text).split())
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"
