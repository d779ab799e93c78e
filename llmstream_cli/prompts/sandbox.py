"""The environment that chat templates run in: a sandbox whose memory and time are bounded.

A template is a program that came with a model file. Jinja's immutable sandbox keeps it from
Python's own objects, and from changing what it is given. What it makes itself is bounded here:

1. Every value that an expression makes is charged to the `Allowance` of the rendering: operators,
   literals, slices, calls, filters, captured blocks. So is each turn of a loop. An allowance that
   is used up, in bytes or in seconds, ends the rendering.
2. An operation whose result can be many times as large as what it is made of is looked at before
   it runs: repetition, `join`, `replace`, formatting, text of nested lists.
3. What no published template uses, and would need a rule of its own, is not there.

All that was ever made counts, freed or not, so the allowance is an upper bound of the memory.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, ClassVar, NoReturn

from jinja2 import nodes
from jinja2.environment import Environment
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_environment
from jinja2.visitor import NodeTransformer

from llmstream_cli.errors import PromptError, one_line

MAX_TEXT_CHARS = 16 * 1024 * 1024  # of one text, and of all that is written
MAX_TOTAL_BYTES = 256 * 1024 * 1024
MAX_ITERATIONS = 100_000  # in all the ranges of one rendering together
MAX_SECONDS = 5.0
_MAX_WIDTH = 1000  # to which a format pads
_MAX_INDENT = 16
_MAX_INTEGER_BITS = 4096
_BYTES_OF_ITEM = 64  # each in a list that a call makes; each turn of a loop
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\*|\d{4})|\{[^{}]*(?:\{|:[^{}]*\d{4})")  # a format's width

_REFUSED_METHODS = {"center", "encode", "expandtabs", "format_map", "ljust", "rjust", "translate"}
_REFUSED_METHODS |= {"zfill"}
_MISSING_FILTERS = {"batch", "center", "filesizeformat", "forceescape", "pprint", "random", "slice"}
_MISSING_FILTERS |= {"striptags", "urlize", "wordwrap", "xmlattr"}
_FILTERS_OF_TEXT = {"capitalize", "e", "escape", "lower", "safe", "title", "trim", "truncate"}
_FILTERS_OF_TEXT |= {"upper", "urlencode", "wordcount"}  # which they make of any value


class Allowance:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        self._bytes = MAX_TOTAL_BYTES
        self._iterations = MAX_ITERATIONS

    def charge(self, num_bytes: int) -> None:
        self._bytes -= num_bytes
        if self._bytes < 0:
            raise PromptError("the chat template takes too much memory")
        if time.monotonic() > self._deadline:
            raise PromptError("the chat template takes too long")

    def range(self, *arguments: int) -> range:
        result = range(*arguments)
        self._iterations -= len(result)
        if self._iterations < 0:
            raise PromptError("the chat template loops without end")
        return result


# Unset while a template is compiled: then nothing that is charged can be computed in advance.
allowance: ContextVar[Allowance] = ContextVar("allowance")


def _charge(value: Any) -> Any:
    """Charge for a value alone: what it holds was charged when it was made."""
    allowance.get().charge(sys.getsizeof(value, _BYTES_OF_ITEM))
    return value


def _charge_result(value: Any) -> Any:
    """Charge for what Python's own code returned, whose items are new as well."""
    if isinstance(value, list):
        allowance.get().charge(len(value) * _BYTES_OF_ITEM)
    return _charge(value)


def _loop(items: Iterable[Any]) -> Iterator[Any]:
    charge = allowance.get().charge
    for item in items:
        charge(_BYTES_OF_ITEM)
        yield item


# ---- text: how long it will be, before it is made -------------------------------------------


def _check_length(chars: int) -> None:
    if chars > MAX_TEXT_CHARS:
        raise PromptError("the chat template makes a text without end")


def _count_chars(value: Any) -> int:
    """Return about how long a value's text is; what stands in it twice is counted twice."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Namespace):
        value = value._Namespace__attrs  # noqa: SLF001  (its text shows them)
    if isinstance(value, Mapping):
        value = (one for pair in value.items() for one in pair)
    elif isinstance(value, range) or not isinstance(value, Collection):
        return _BYTES_OF_ITEM
    allowance.get().charge(_BYTES_OF_ITEM)
    total = 2
    for one in value:
        total += _count_chars(one) + 4
        _check_length(total)
    return total


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    _check_length(_count_chars(value))
    return str(value)


def _join_texts(parts: Iterable[Any], separator: str = "") -> str:
    texts = [_text(part) for part in parts]
    _check_length(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


@pass_context  # so that nothing is written at compile time
def _written(_: Context, value: Any) -> str:
    allowance.get().charge(8)
    return _text(value)


def _check_format(pattern: str, arguments: Any) -> None:
    """Check `%` and `format`, where a few letters ask for any width and any argument twice."""
    if _WIDE.search(pattern):
        raise PromptError("the chat template formats a text without end")
    fields = pattern.count("%") + pattern.count("{")
    _check_length(len(pattern) + fields * (_MAX_WIDTH + _count_chars(arguments)))


def _check_call(name: str, value: Any, arguments: list[Any]) -> None:
    """Check a filter, or a method of text, whose result can be larger than what it takes."""
    match name:
        case "replace" if len(arguments) > 1:
            text, old, new = map(_text, (value, *arguments[:2]))
            _check_length(len(text) + text.count(old) * len(new))
        case "format":
            _check_format(_text(value), arguments)
        case "indent":
            if any(isinstance(width, int) and width > _MAX_INDENT for width in arguments):
                raise PromptError("the chat template pads a text without end")
            widest = max(map(_count_chars, arguments), default=_MAX_INDENT)
            _check_length(_text(value).count("\n") * widest)
        case _ if name in _FILTERS_OF_TEXT:
            _text(value)
        case "list" | "sort" if isinstance(value, str):
            allowance.get().charge(len(value) * _BYTES_OF_ITEM)
        case "sum":  # of lists
            _count_chars(value)


def _refuse(name: str) -> NoReturn:
    raise PromptError(f"the chat template uses `{name}`, which is not allowed")


# ---- filters --------------------------------------------------------------------------------


@pass_environment
def _join(env: Environment, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(env, attribute), value)
    return _join_texts(value, d)


def _format(value: Any, *arguments: Any, **named: Any) -> str:
    return _text(value) % (named or arguments)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Dump JSON as Hugging Face does: Jinja's own filter escapes for HTML."""
    if not 0 <= (indent or 0) <= _MAX_INDENT or len("".join(separators or ())) > _MAX_INDENT:
        raise PromptError("the chat template pads a text without end")
    # Characters may be escaped, and each line indented.
    _check_length(_count_chars(value) * (6 if ensure_ascii else 1))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _charged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a filter that is checked before it runs, and charged for what it makes."""
    takes_context = hasattr(function, "jinja_pass_arg")

    @wraps(function)
    def charged(*arguments: Any, **named: Any) -> Any:
        value, *others = arguments[takes_context:] or (None,)
        _check_call(name, value, [*others, *named.values()])
        return _charge_result(function(*arguments, **named))

    return charged


# ---- the environment ------------------------------------------------------------------------

_LOOP, _CHARGE, _CONCATENATE = "_loop", "_charge", "_concatenate"


class _Charging(NodeTransformer):
    """Puts a charge around those expressions that Jinja computes without asking its environment."""

    def _wrap(self, node: nodes.Node, name: str) -> nodes.Filter:
        assert isinstance(node, nodes.Expr)
        return nodes.Filter(
            node, name, [], [], None, None, lineno=node.lineno, environment=node.environment
        )

    def generic_visit(self, node: nodes.Node, *arguments: Any, **named: Any) -> nodes.Node:
        super().generic_visit(node, *arguments, **named)
        match node:
            case nodes.For():
                node.iter = self._wrap(node.iter, _LOOP)
            case nodes.Concat():
                parts = nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
                return self._wrap(parts, _CONCATENATE)
            case nodes.List() | nodes.Dict() | nodes.Tuple(ctx="load"):
                return self._wrap(node, _CHARGE)
            case nodes.Getitem(arg=nodes.Slice()):
                return self._wrap(node, _CHARGE)
        return node


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with rules 1 and 2: Jinja calls these for each template and operation."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset({"+", "-", "*", "**", "%"})  # type: ignore[misc]
    concat = staticmethod(lambda parts: _charge(_join_texts(parts)))

    def _generate(self, source: nodes.Template, *arguments: Any, **named: Any) -> str:
        return super()._generate(_Charging().visit(source), *arguments, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _refuse(operator)
        if operator == "%" and isinstance(left, str):
            _check_format(left, right)
        if operator == "*":
            _check_product(left, right)
        return _charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # Jinja has put its own function around `format`.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, int | bytes) or (
            isinstance(owner, str) and __obj.__name__ in _REFUSED_METHODS
        ):
            _refuse(__obj.__name__)
        if isinstance(owner, str) and __obj.__name__ == "join" and args:
            return _charge(_join_texts(args[0], owner))
        if isinstance(owner, str):
            _check_call(__obj.__name__, owner, [*args, *kwargs.values()])
        return _charge_result(super().call(__context, __obj, *args, **kwargs))


def _check_product(left: Any, right: Any) -> None:
    for sequence, count in ((left, right), (right, left)):
        if (
            isinstance(sequence, str | list | tuple)
            and isinstance(count, int)
            and len(sequence) * count > MAX_ITERATIONS
        ):
            raise PromptError("the chat template repeats a value without end")
    bits = [number.bit_length() for number in (left, right) if isinstance(number, int)]
    if len(bits) == 2 and sum(bits) > _MAX_INTEGER_BITS:  # noqa: PLR2004
        raise PromptError("the chat template computes a number without end")


def _raise_exception(message: str) -> NoReturn:
    raise PromptError(f"the chat template refuses these messages: {one_line(message)}")


def _strftime_now(pattern: str) -> str:
    _check_format(pattern, ())
    return datetime.now().astimezone().strftime(pattern)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks what to train on, means its content."""

    tags = {"generation"}  # noqa: RUF012  (so declared by Jinja)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> _Environment:
    # trim_blocks and lstrip_blocks: templates are written for transformers, which sets them.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[loopcontrols, _GenerationTag],
        finalize=_written,
    )
    environment.globals = {
        "dict": dict,
        "namespace": environment.globals["namespace"],
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    own = {"join": _join, "string": _text, "format": _format, "tojson": _tojson}
    environment.filters = {
        name: _charged(name, function)
        for name, function in (environment.filters | own).items()
        if name not in _MISSING_FILTERS
    } | {_LOOP: _loop, _CHARGE: _charge, _CONCATENATE: lambda parts: _charge(_join_texts(parts))}
    return environment


ENVIRONMENT = _environment()
