"""A model's chat template, rendered where it can do no harm.

A template is a program that came with a model file. It runs in Jinja's immutable sandbox: no
attribute of Python's own objects, no change to what it is given. Its source, the repetitions it
asks for, and what it writes are bounded, and so is its time, which is looked at whenever it
writes. A template that burns time or memory without writing is not stopped here.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llmstream_cli.errors import PromptError, one_line
from llmstream_cli.prompts.messages import Message

MAX_SOURCE_CHARS = 512 * 1024
MAX_RENDERED_CHARS = 16 * 1024 * 1024
MAX_ITERATIONS = 100_000  # in all the ranges of one rendering together
MAX_SECONDS = 5.0

_PROBE_SYSTEM, _PROBE_USER = "probe of the system role", "probe of the user role"


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source in the dialect of Hugging Face's `apply_chat_template`.

    Raises:
        PromptError: it is too long or no valid Jinja.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise PromptError(f"the chat template has {len(source)} characters; too many to run")
        try:
            self._template = _ENVIRONMENT.from_string(source)
        # Jinja compiles to Python, whose own compiler can refuse what Jinja let pass.
        except Exception as error:
            raise PromptError(f"the chat template is invalid: {one_line(error)}") from error

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render the template.

        Args:
            variables: see `chat_variables`.

        Raises:
            PromptError: the template refuses the messages, fails, or exceeds a limit.
        """
        deadline = time.monotonic() + MAX_SECONDS
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(variables, range=_bounded_range()):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_RENDERED_CHARS or time.monotonic() > deadline:
                    raise PromptError("the chat template writes too much, or for too long")
        except PromptError:
            raise
        # A template is a foreign program: it can raise whatever Python can.
        except Exception as error:
            raise PromptError(f"the chat template failed: {one_line(error)}") from error
        return "".join(pieces)

    @cached_property
    def takes_system_role(self) -> bool:
        """Whether the template writes a system message down: some refuse it, some drop it.

        Found out by rendering. A template that fails without a system message too is given the
        benefit of the doubt, so that its own words reach whoever asked.
        """
        user = Message("user", _PROBE_USER)
        try:
            return _PROBE_SYSTEM in self._probe([Message("system", _PROBE_SYSTEM), user])
        except PromptError:
            try:
                self._probe([user])
            except PromptError:
                return True
            return False

    def _probe(self, messages: Sequence[Message]) -> str:
        return self.render(chat_variables(messages, bos_token="", eos_token=""))


def chat_variables(
    messages: Sequence[Message], *, bos_token: str, eos_token: str
) -> dict[str, Any]:
    """Return what templates of the dialect expect, for the assistant to answer."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": True,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
    }


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with repetition bounded: `"x" * 10**10` is as bad as an endless loop."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "**"})  # type: ignore[misc]

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Refuse powers, and products that repeat a sequence beyond the limit."""
        if operator == "**":
            raise PromptError("the chat template uses `**`, which is not allowed")
        for sequence, count in ((left, right), (right, left)):
            if (
                isinstance(sequence, str | bytes | list | tuple)
                and isinstance(count, int)
                and len(sequence) * count > MAX_ITERATIONS
            ):
                raise PromptError("the chat template repeats a value without end")
        return super().call_binop(context, operator, left, right)


def _bounded_range() -> Callable[..., range]:
    """Make a `range` whose results add up to at most MAX_ITERATIONS, nested loops included."""
    left = MAX_ITERATIONS

    def bounded(*arguments: int) -> range:
        nonlocal left
        result = range(*arguments)
        left -= len(result)
        if left < 0:
            raise PromptError("the chat template loops without end")
        return result

    return bounded


def _raise_exception(message: str) -> NoReturn:
    raise PromptError(f"the chat template refuses these messages: {one_line(message)}")


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Dump JSON as Hugging Face does: Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks what to train on, means its content."""

    tags = {"generation"}  # noqa: RUF012  (so declared by Jinja)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> _Environment:
    # trim_blocks and lstrip_blocks: templates are written for transformers, which sets them.
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.globals = {
        "dict": dict,
        "namespace": environment.globals["namespace"],
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    environment.filters["tojson"] = _tojson
    return environment


_ENVIRONMENT = _environment()
