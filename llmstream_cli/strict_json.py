"""JSON that all parsers read alike (RFC 8259), of text that anybody may have written."""

import json
import math
import re
from itertools import accumulate
from typing import Any, NoReturn

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: it never goes back
_DEPTHS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_DEPTHS))
_EXACT = 2**53  # whole numbers below are their own in double precision
_MAX_DIGITS = 360  # more than any double has
_MAX_SHOWN = 100  # characters


class StrictJSONError(ValueError):
    """A text is no such JSON; the message is the predicate of a sentence about it."""


def without_strings(data: bytes, most: int = 0) -> tuple[bytes, int]:
    """Return a text with a quotation mark for each of `most` strings (0 is all), and how many."""
    return _STRING.subn(b'"', data, count=most)


def check_depth(outside: bytes, max_depth: int) -> None:
    """Refuse a text, given without its strings, that a parser would run out of stack for."""
    depths = accumulate(map(_DEPTHS.__getitem__, outside.translate(None, _NO_BRACKETS)))
    if max(depths, default=0) > max_depth:
        raise StrictJSONError(f"is nested deeper than {max_depth} levels")


def parse(text: str, *, fold_whole: bool = False) -> Any:
    """Return the value of a JSON text, whose depth has been checked.

    `fold_whole` reads 1.0 as the integer 1: JSON and JavaScript have one kind of number.

    Raises:
        StrictJSONError: it is no JSON, names a field twice, or has text that is no Unicode or a
            number that is none.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_folded if fold_whole else _finite,
            parse_int=_integer,
        )
        text.encode()  # fails on a lone surrogate, as does the next line on an escaped one
        if r"\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise StrictJSONError("has half of a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        raise StrictJSONError(f"is not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise StrictJSONError(f"names {twice[:_MAX_SHOWN]!r} twice")
    return fields


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        _refuse(digits)
    return number


def _folded(digits: str) -> float:
    number = _finite(digits)
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise StrictJSONError("has a number of too many digits")
    return int(digits)


def _refuse(number: str) -> NoReturn:
    raise StrictJSONError(f"has {number[:_MAX_SHOWN]}, which is no number that JSON can carry")
