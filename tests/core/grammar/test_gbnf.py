"""GBNF as it is read and written; what the grammars accept is in test_constraint.py."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli.core.grammar.gbnf import MAX_DEPTH, MAX_REPETITIONS, MAX_SYMBOLS, gbnf_to_lark
from llmstream_cli.errors import InvalidValueError

BAD = {
    "": "there is no rule root",
    "# nothing but a comment": "there is no rule root",
    'item ::= "a"': "there is no rule root",
    'root = "a"': "line 1, column 6: expected ::=",
    'root ::= "a" "b': "line 1, column 16: the grammar ends inside a string",
    'root ::= "a\\': "line 1, column 13: the grammar ends inside",
    'root ::= "\\q"': "line 1, column 12: unknown escape",
    'root ::= "\\x4"': "line 1, column 12: unknown escape",
    'root ::= "\\uD800"': "column 17: U+D800 is no character",
    'root ::= "\\U00110000"': "column 21: U+110000 is no character",
    "root ::= [a": "line 1, column 12: the grammar ends inside",
    "root ::= []": "line 1, column 10: a class of characters is empty",
    "root ::= [z-a]": "column 10: a range of characters ends before it begins",
    "root ::= *": "line 1, column 10: nothing stands before *",
    'root ::= "a" | +': "line 1, column 16: nothing stands before +",
    'root ::= "a"{': "line 1, column 13: expected {m}, {m,} or {m,n}",
    'root ::= "a"{1 2}': "line 1, column 13: expected {m}, {m,} or {m,n}",
    'root ::= "a"{3,2}': "line 1, column 13: a repetition's bounds allow none",
    'root ::= "a"{0}': "line 1, column 13: a repetition's bounds allow none",
    'root ::= "a"{10001}': f"at most {MAX_REPETITIONS} repetitions are allowed",
    'root ::= ("a"': "line 1, column 14: expected )",
    'root ::= "a")': "line 1, column 13: expected the end of the line",
    "root ::= <think>": "column 10: references to tokens are not supported",
    "root ::= !<[5]>": "column 10: references to tokens are not supported",
    "root ::= @": "line 1, column 10: expected a rule's name, \", [, ( or .",
    "root ::= item": "line 1, column 10: rule item is not defined",
    'root ::= "a"\nother ::= item': "line 2, column 11: rule item is not defined",
    'root ::= "a"\nroot ::= "b"': "line 2, column 1: rule root is defined twice",
    'root ::= "a" root': "line 1, column 1: rule root never ends",
    'root ::= "a" | item\nitem ::= "b" item': "line 2, column 1: rule item never ends",
    'root ::= a+\na ::= b "x"\nb ::= a | b b': "line 3, column 1: rule b never ends",
}


@pytest.mark.parametrize("grammar", BAD)
def test_a_mistake_is_told_in_one_line_with_its_place(grammar: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        gbnf_to_lark(grammar)
    assert BAD[grammar] in str(caught.value)
    assert str(caught.value).startswith("grammar")
    assert "\n" not in str(caught.value)


def test_parentheses_may_be_nested_but_not_without_bound() -> None:
    def nested(depth: int) -> str:
        return f'root ::= {"(" * depth}"a"{")" * depth}'

    assert gbnf_to_lark(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 20_000):
        with pytest.raises(InvalidValueError, match="nested more than"):
            gbnf_to_lark(nested(depth))


def test_the_size_is_bounded() -> None:
    with pytest.raises(InvalidValueError, match="more than 20000 symbols"):
        gbnf_to_lark(f'root ::= "{"a" * (MAX_SYMBOLS + 1)}"')
    with pytest.raises(InvalidValueError, match="more than 20000 symbols"):
        gbnf_to_lark(f"root ::= {'x ' * (MAX_SYMBOLS + 1)}\nx ::= [a-z]")


def test_a_long_chain_of_rules_is_read() -> None:
    """Without recursion, and not in quadratic time."""
    rules = [f"r{number} ::= r{number + 1}" for number in range(4000)]
    assert gbnf_to_lark("\n".join(["root ::= r0", *rules, 'r4000 ::= "a"']))


def test_a_list_that_ends_in_itself_becomes_a_loop() -> None:
    lark = gbnf_to_lark("root ::= [a-z] root | [0-9]")
    assert lark.splitlines() == [
        "start: r0",
        "r0: r0_loop* r0_end",
        "r0_loop: /[a-z]/",
        "r0_end: /[0-9]/",
    ]
    assert "_loop* " not in gbnf_to_lark('root ::= "(" root ")" | "x"')


def test_every_character_is_a_terminal_of_its_own_and_means_itself() -> None:
    assert gbnf_to_lark('root ::= "a/"').splitlines()[1] == r"r0: (/a/ /\x{2F}/)"
    assert gbnf_to_lark("root ::= [^/\\]a-c]*").splitlines()[1] == r"r0: /[^\x{2F}\x{5D}a-c]/{0,}"


def test_repetitions_are_written_as_bounds_from_the_inside_out() -> None:
    lines = gbnf_to_lark('root ::= "a"{2} "b"{2,} "c"{0,3} "d"*? ""+').splitlines()
    assert lines[1:] == ['r0: /a/{2,2} /b/{2,} /c/{0,3} ( /d/{0,} ){0,1} ""{1,}']


@pytest.mark.parametrize("body", ["x?", "[a-z] x?", "(x)*", '(x | "a")', '("b" (x | y)) | "a"'])
def test_a_rule_that_need_not_go_on_ends(body: str) -> None:
    assert gbnf_to_lark(f'root ::= x\nx ::= {body}\ny ::= "c"')
    with pytest.raises(InvalidValueError, match="rule x never ends"):
        gbnf_to_lark(f'root ::= x\nx ::= ({body}) x\ny ::= "c"')


def test_what_the_root_does_not_use_is_left_out() -> None:
    lark = gbnf_to_lark('root ::= "a" used\nused ::= "b" | ""\nunused ::= "c" used')
    assert lark.splitlines() == ["start: r0", "r0: /a/ r1", 'r1: /b/ | ""']


@given(st.text('root::=()|*+?{}[]^-".\\xuU0123 abc\n\r\t#<!', max_size=60))
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    try:
        outcome = gbnf_to_lark(f"root ::= {text}")
    except InvalidValueError as error:
        outcome = str(error)
    assert re.match(r"start: r0\n|grammar[^\n]*$", outcome)
