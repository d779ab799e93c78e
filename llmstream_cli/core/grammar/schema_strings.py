"""What a JSON schema asks of strings, as regular expressions that llguidance follows.

Those of formats are as strict as programs that read such strings: what matches is an instance of
the format, and not every instance matches.
"""

import re
from itertools import accumulate
from typing import Any

from llmstream_cli.errors import SchemaError

# ---- patterns -------------------------------------------------------------------------------

# A class that does not end matches to the end of the text: else the search would begin anew at
# each character of it, in quadratic time.
_CLASS = r"\[\^?(?:\\.|[^\]\\])*+(?:\]|\\?\Z)"
_TOKEN = re.compile(rf"\\.|{_CLASS}|\(\?(?!:|<\w)", re.DOTALL)
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_ESCAPE_OR_OPERATOR = re.compile(r"(\\.)|[\[&~]", re.DOTALL)  # in a class of Rust's
_PLAIN = rf"\\.|{_CLASS}|[^()\[\]\\]"
_LOOKAHEAD = re.compile(
    rf"\(\?=((?:{_PLAIN}|\((?:\?:)?(?:{_PLAIN})*+\))*+)\)",  # with groups, but none in those
    re.DOTALL,
)
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
    rest = pattern.removeprefix("^")
    for negative, positive in _POSITIVE.items():
        rest = rest.replace(negative, positive)
    parts: list[str] = []
    while len(parts) < _MAX_LOOKAHEADS and (found := _LOOKAHEAD.match(rest)):
        parts.append(f"^(?:{found[1]})")
        rest = rest[found.end() :]
    if not parts or not pattern.startswith("^"):
        return [_as_rust(pattern)]
    if _has_alternatives(rest):
        raise UnsupportedPatternError("lookarounds before alternatives are not supported")
    return [_as_rust(part) for part in (*parts, f"^{rest}")]


def _has_alternatives(pattern: str) -> bool:
    plain = _TOKEN.sub("", pattern)
    depths = accumulate({"(": 1, ")": -1}.get(char, 0) for char in plain)
    return any(char == "|" and not depth for char, depth in zip(plain, depths, strict=True))


def _as_rust(pattern: str) -> str:
    """Escape in classes what means something to Rust alone, and refuse what cannot be said."""
    return _TOKEN.sub(lambda found: _token_as_rust(found[0]), pattern)


def _token_as_rust(token: str) -> str:
    if token.startswith("(?"):
        raise UnsupportedPatternError("lookarounds and flags are not supported")
    if re.fullmatch(r"\\[bBk1-9]", token):
        raise UnsupportedPatternError("word boundaries and back references are not supported")
    if token in {r"\A", r"\z", r"\a"}:
        raise SchemaError(f"{token} is no escape in a JSON schema")
    if token[0] != "[":
        return token
    if token.startswith(("[]", "[^]")):
        raise SchemaError("write \\] for this character in a class")
    if "--" in _ESCAPE.sub("", token):
        raise SchemaError("write \\- for this character in a class")
    return "[" + _ESCAPE_OR_OPERATOR.sub(lambda found: found[1] or f"\\{found[0]}", token[1:])


def name_pattern(names: dict[str, Any]) -> str | None:
    """Return a pattern for names that fulfil a schema, if one is found."""
    words = names.keys() - {"type"}
    if words == {"pattern"}:
        return str(names["pattern"])
    if words <= {"minLength", "maxLength"}:
        return rf"^[\s\S]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
    if words in ({"enum"}, {"const"}):
        values = names.get("enum", [names.get("const")])
        texts = (re.escape(value) for value in values if isinstance(value, str))
        return f"^(?:{'|'.join(texts)})$"
    return None


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
