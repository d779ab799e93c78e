"""The tree at the top of errors.py is the one in the code."""

import inspect
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli import errors
from llmstream_cli.errors import did_you_mean, one_line


def test_the_drawn_tree_has_every_error_with_its_status_and_exit_code() -> None:
    drawn = {
        name: (int(status), int(code))
        for name, status, code in re.findall(
            r"(\w+Error) +(\d{3}) +(\d+)", inspect.getdoc(errors) or ""
        )
    }
    defined = {
        name: (error.status, error.exit_code)
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.LLMStreamError)
    }
    del defined["LLMStreamError"]
    assert drawn == defined


@pytest.mark.parametrize(
    "error", [errors.ContextLengthError(9, 8), errors.InvalidValueError("top_k is bad", "top_k")]
)
def test_an_error_is_copied_and_pickled_whatever_makes_it(error: errors.LLMStreamError) -> None:
    for copied in (errors.copy_error(error), pickle.loads(pickle.dumps(error))):
        assert copied is not error
        assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("name", "otherwise", "hint"),
    [
        ("Sq", None, "did you mean SQL?"),
        ("sql" * 9999, None, "known: SQL, math"),
        ("zzz", None, "known: SQL, math"),
        ("zzz", "ask", "ask"),
        ("zzz", "", ""),
    ],
)
def test_a_near_miss_is_named(name: str, otherwise: str | None, hint: str) -> None:
    assert did_you_mean(name, ["SQL", "math"], otherwise) == hint


@given(st.text())
def test_any_text_becomes_one_line(text: str) -> None:
    line = one_line(text, 300)
    assert line.isprintable()
    assert len(line) <= 300
    assert line == one_line(line, 300)


def test_an_error_without_a_word_is_named() -> None:
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("a\x1b[2J\n\n b")) == "a[2J b"
