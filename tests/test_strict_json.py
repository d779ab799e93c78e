"""Strict JSON: what parsers disagree about is refused, the rest is read as it is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.strict_json import StrictJSONError, check_depth, parse, without_strings

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.booleans())
def test_what_json_can_say_is_read_as_it_is(value: Any, ascii_only: bool, fold: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only), fold_whole=fold) == value


@given(st.text(max_size=50) | st.text('{}[]",:1eNa\\u d8', max_size=20))
def test_text_is_read_as_the_standard_parser_does_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except StrictJSONError:
        return
    assert value == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ('{"a": 1} x', "is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ('{"a": "line\nbreak"}', "is not JSON"),
        ('{"a": NaN}', "has NaN"),
        ('{"a": -Infinity}', "has -Infinity"),
        ('{"a": 1e400}', "has 1e400"),
        ('{"a": ' + "9" * 361 + "}", "a number of too many digits"),
        ('{"a": ' + "9" * 5000 + "}", "a number of too many digits"),
        ('{"a": 1, "b": 2, "a": 3}', "names 'a' twice"),
        ('{"x": {"a": 1, "a": 1}}', "names 'a' twice"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('{"\\udc00": 1}', "half of a surrogate pair"),
        ('{"a": "\ud800"}', "half of a surrogate pair"),
    ],
)
@pytest.mark.parametrize("fold", [False, True])
def test_what_parsers_disagree_about_is_refused(text: str, reason: str, fold: bool) -> None:
    with pytest.raises(StrictJSONError, match=reason):
        parse(text, fold_whole=fold)


def test_whole_numbers_are_folded_where_that_is_exact() -> None:
    for text, folded in (("1.0", 1), ("2e3", 2000), ("1e300", 1e300), ("0.5", 0.5)):
        assert type(parse(text, fold_whole=True)) is type(folded)
        assert parse(text, fold_whole=True) == folded
        assert type(parse(text)) is float


@pytest.mark.parametrize("text", ["[" * 1000, '\\"' + "[" * 100, '\\"' * 200_000, "\\"])
def test_brackets_in_text_are_no_depth(text: str) -> None:
    outside, count = without_strings(json.dumps({"a": text, "b": ["}"]}).encode())
    assert (outside, count) == (b'{": ", ": ["]}', 4)
    check_depth(outside, 2)
    with pytest.raises(StrictJSONError, match="nested deeper than 1 levels"):
        check_depth(outside, 1)


def test_a_text_without_end_does_not_take_long() -> None:
    """The search for strings reads each byte once; backwards it would take hours."""
    assert without_strings(b'["' + b'\\"[' * 300_000) == (b'["', 1)
