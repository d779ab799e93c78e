"""What a JSON schema asks of strings, as regular expressions that llguidance follows.

Those of formats are as strict as programs that read such strings: what matches is an instance of
the format, and not every instance matches.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from llmstream_cli.errors import SchemaError

# ---- patterns -------------------------------------------------------------------------------

# A class that does not end matches to the end of the text: else the search would begin anew at
# each character of it, in quadratic time.
_TOKEN = re.compile(
    r"\\(?:x\{|.)|\[\^?\]?((?:\\.|[^\]\\])*+)(?:\]|\\?\Z)|\(\?(?::|<\w|<?[=!])?|[()|]", re.DOTALL
)
_AMBIGUOUS = re.compile(r"(\\.)|[\[&~]", re.DOTALL)  # in a class of Rust's, if not escaped
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_UNSUPPORTED = re.compile(r"\\[bBk1-9]")
_MAX_LOOKAHEADS = 16

# Lookaheads that must not match, and such as must and say the same.
_POSITIVE = {
    r"(?!^[-+.]*$)": r"(?=[\s\S]*[^-+.])",  # pydantic's decimals
    r"(?!\.)": r"(?=[^.]|$)",
    r"(?!.*\.\.)": r"(?=(?:[^.]|\.[^.])*\.?$)",
}


class UnsupportedPatternError(SchemaError):
    """A pattern may be right, and cannot be followed."""


def split_pattern(pattern: str) -> list[str]:
    """Return the patterns that together match what one of ECMA-262 does, as Rust reads them.

    Raises:
        UnsupportedPatternError: there are none.
        SchemaError: the two dialects would read it otherwise.
    """
    parts: list[str] = []
    rest = pattern.removeprefix("^")
    while rest != pattern and len(parts) < _MAX_LOOKAHEADS:
        negative = next((text for text in _POSITIVE if rest.startswith(text)), "")
        rest = _POSITIVE.get(negative, "") + rest[len(negative) :]
        end = next((at for at, text, depth in _tokens(rest) if text == ")" and not depth), -1)
        if not rest.startswith("(?=") or end < 0:
            break
        parts.append(f"^(?:{rest[3:end]})")
        rest = rest[end + 1 :]
    if not parts:
        return [_as_rust(pattern)]
    if any(text == "|" and not depth for _, text, depth in _tokens(rest)):
        raise UnsupportedPatternError("lookarounds before alternatives are not supported")
    return [_as_rust(part) for part in (*parts, f"^{rest}")]


def _tokens(pattern: str) -> Iterator[tuple[int, str, int]]:
    """Yield where what changes the meaning of others stands, and in how many groups."""
    depth = 0
    for token in _TOKEN.finditer(pattern):
        depth -= token[0] == ")"
        yield token.start(), token[0], depth
        depth += token[0].startswith("(")


def _as_rust(pattern: str) -> str:
    """Escape in classes what means something to Rust alone, and refuse what cannot be said."""
    written, end = [], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text.startswith("(?") and not re.fullmatch(r"\(\?(:|<\w)", text):
            raise UnsupportedPatternError("lookarounds and flags are not supported")
        if _UNSUPPORTED.fullmatch(text):
            raise UnsupportedPatternError("word boundaries and back references are not supported")
        if text in {"\\A", "\\z", "\\a", "\\x{"}:
            raise SchemaError(f"{text} is no escape in a JSON schema")
        if text.startswith(("[]", "[^]")):
            raise SchemaError("write \\] for this character in a class")
        if token[1] and "--" in _ESCAPE.sub("", token[1]):
            raise SchemaError("write \\- for this character in a class")
        body = _AMBIGUOUS.sub(lambda found: found[1] or f"\\{found[0]}", token[1] or "")
        written += [pattern[end : token.start()], text.replace(token[1] or "", body, 1)]
        end = token.end()
    return "".join(written) + pattern[end:]


# ---- formats --------------------------------------------------------------------------------

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_NETWORKS = "|".join(
    rf"{_OCTET}(?:\.{_OCTET}){{{n - 1}}}(?:\.0){{{4 - n}}}/{8 * n}" for n in range(1, 5)
)
_LEAP_YEAR = (
    "(?:[1-9][0-9](?:[2468][048]|[13579][26]|0[48])|(?:[2468][048]|[13579][26])00)"  # from 1004 on
)
_DATE = (
    "(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_TIME = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_N = "[0-9]{1,3}"
_DAYS = f"(?:{_N}Y(?:{_N}M(?:{_N}D)?)?|{_N}M(?:{_N}D)?|{_N}D)"
_HOURS = f"T(?:{_N}H(?:{_N}M(?:{_N}S)?)?|{_N}M(?:{_N}S)?|{_N}S)"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = "[A-Za-z0-9_'+-]{1,32}"
_HEX = "[0-9a-fA-F]"
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _uuid(version: str) -> str:
    return f"{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}"


FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": f"P(?:{_DAYS}(?:{_HOURS})?|{_HOURS}|{_N}W)",
    "email": rf"(?:{_ATOM}\.){{0,3}}[A-Za-z0-9_'+-]{{0,32}}[A-Za-z0-9_+-]"
    rf"@(?:{_LABEL}\.)+[A-Za-z]{{2,24}}",
    "ipv4": _IPV4,
    "uuid": _uuid("[1-8]"),
    **{f"uuid{version}": _uuid(str(version)) for version in (1, 3, 4, 5, 6, 7, 8)},
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9][0-9]{{0,8}})(?:#|{_POINTER})",
    "byte": _BASE64,
    "base64": _BASE64,
    "base64url": "(?:[A-Za-z0-9_-]{4})*",
    "cidrv4": f"{_IPV4}/(?:[12]?[0-9]|3[0-2])",
    "ipv4interface": f"{_IPV4}/(?:[12]?[0-9]|3[0-2])",
    "ipv4network": f"(?:{_NETWORKS})",
    "cuid": "c[0-9a-z]{24}",
    "cuid2": "[a-z][0-9a-z]{23}",
    "e164": r"\+[1-9][0-9]{6,14}",
    "ksuid": "[A-Za-z0-9]{27}",
    "nanoid": "[A-Za-z0-9_-]{21}",
    "ulid": "[0-7][0-9A-HJKMNP-TV-Z]{25}",
    "xid": "[0-9a-v]{20}",
}
OF_THE_LIBRARY = frozenset(("hostname", "ipv6", "uri"))  # which llguidance has expressions for
NARROWER = {  # every instance of the second is one of the first
    "idn-email": "email",
    "idn-hostname": "hostname",
    "iri": "uri",
    "iri-reference": "uri",
    "uri-reference": "uri",
    "uri-template": "uri",
    "url": "uri",
    "guid": "uuid",
    "ipvanyaddress": "ipv4",
    "ipvanyinterface": "ipv4interface",
    "ipvanynetwork": "ipv4network",
}

INTEGERS: dict[str, tuple[int | None, int | None]] = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)},
    "int64": (None, None),  # no answer has an integer beyond it
    "uint64": (0, None),
}

# ---- JSON in strings ------------------------------------------------------------------------

_MAX_TEXT_PATTERN = 20_000  # characters
TEXT_WORDS = frozenset(
    ("type", "const", "enum", "items", "properties", "required", "additionalProperties")
)
_STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"'
_INTEGER = "-?(?:0|[1-9][0-9]{0,17})"
_SCALARS = {
    "string": _STRING,
    "integer": _INTEGER,
    "number": rf"{_INTEGER}(?:\.[0-9]{{1,17}})?",
    "boolean": "(?:true|false)",
    "null": "null",
}
_SCALAR = f"(?:{'|'.join(_SCALARS.values())})"


def json_text(schema: Any) -> tuple[str, bool]:
    """Return an expression for JSON text, and whether all that matches fulfils a schema.

    Of a schema that has other words than `TEXT_WORDS` and annotations it follows nothing. All of
    `properties` come; what has no type is a scalar, or a list or an object of scalars.
    """
    if _is_simple(schema) and len(pattern := _text(schema)) <= _MAX_TEXT_PATTERN:
        return pattern, True
    return _text({}), False


def _is_simple(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return schema is True
    named = schema.get("properties", {})
    if not isinstance(named, dict) or not set(schema.get("required", ())) <= named.keys():
        return False
    if not schema.keys() <= TEXT_WORDS | {"title", "description", "default"}:
        return False
    parts = [*named.values(), schema.get("items", True), schema.get("additionalProperties") or True]
    return all(map(_is_simple, parts))


def _text(schema: Any) -> str:
    schema = schema if isinstance(schema, dict) else {}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values:
        return f"(?:{'|'.join(re.escape(json.dumps(value)) for value in values)})"
    kinds = schema.get("type", [*_SCALARS, "array", "object"])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    return f"(?:{'|'.join(_text_of_type(str(kind), schema) for kind in kinds)})"


def _text_of_type(kind: str, schema: dict[str, Any]) -> str:
    if kind == "array":
        item = _text(schema["items"]) if schema.get("items") else _SCALAR
        return rf"\[(?:{_listed(item)})?\]"
    if kind == "object" and schema.get("properties"):
        named = schema["properties"].items()
        pairs = (f"{re.escape(json.dumps(name))}: ?{_text(part)}" for name, part in named)
        return rf"\{{{', ?'.join(pairs)}\}}"
    if kind == "object":
        others = schema.get("additionalProperties")
        pair = f"{_STRING}: ?{_text(others) if others else _SCALAR}"
        return rf"\{{(?:{_listed(pair)})?\}}"
    return _SCALARS.get(kind, _SCALAR)


def _listed(item: str) -> str:
    return f"{item}(?:, ?{item})*"
