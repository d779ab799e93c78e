"""GBNF and regular expressions on the real model's vocabulary: whatever is drawn follows them."""

import json
import random
import re
from collections.abc import Callable

import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.core.grammar.walker import Accepted, Walker, by_grammar, by_schema

pytestmark = pytest.mark.slow

JSON_GRAMMAR = r"""
root   ::= object   # as llama.cpp's own example, in other words
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ws ("," ws string ":" ws value ws)* )? "}"
array  ::= "[" ws ( value ws ("," ws value ws)* )? "]"
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws     ::= ([ \t\n] ws)?
"""
COMMENTED = """
# a comment

root ::= (  # inside
  "a" |
  second-Rule
) last_one
second-Rule ::= "b" |
  "c"\r
last_one ::= "!"  # end"""


def is_balanced(text: str) -> bool:
    while "()" in text:
        text = text.replace("()", "")
    return not text


def is_json_object(text: str) -> bool:
    return isinstance(json.loads(text), dict)


# A grammar, what tells its answers, some that are, and some that are not.
GRAMMARS: list[tuple[str, str | Callable[[str], bool], list[str], list[str]]] = [
    ('root ::= word "end"\nword ::= [den]+', "[den]+end", ["needend", "enend"], ["end", "need"]),
    ('root ::= "a" "bc" | "ab" "d" | "ab"', "abc|abd|ab", ["abc", "abd", "ab"], ["a", "abcd"]),
    ('root ::= "(" root? ")" root?', is_balanced, ["()", "(())()"], ["(", ")(", "())"]),
    ('root ::= root root | "(" root ")" | "()"', is_balanced, ["()", "(())()"], ["(", ")("]),
    ('root ::= x "," root | x\nx ::= [a-z]{2,4}', "[a-z]{2,4}(,[a-z]{2,4})*", ["ab,cd"], ["ab,"]),
    (
        JSON_GRAMMAR,
        is_json_object,
        ["{}", '{"a": [1, -2.5e3, "x\\n日本"], "b":{"c": null}}'],
        ["[]", '{"a" 1}', '{"a": 01}', '{"a": "\n"}'],
    ),
    (
        'root ::= [a-cX-Z0] [^a-c\\]\\n] [\\-+] [\\x41-\\u0043] "/"',
        r"[a-cX-Z0][^a-c\]\n][-+][ABC]/",
        ["aé-A/", "0d+C/", "X😀-B/"],
        ["da-A/", "aa-A/", "ad*A/", "ad-D/", "ad-A"],
    ),
    (
        'root ::= "a"{2} "b"{1,2} "c"{0,2} ("d" "e"){2,} "f"?',
        "aab{1,2}c{0,2}(de){2,}f?",
        ["aabdede", "aabbccdededef"],
        ["abdede", "aabbbdede", "aabde", "aabdedeff"],
    ),
    ('root ::= ("a"? "b"){2}{2} [c]*{2}', "(a?b){4}c*", ["bbbb", "abababab", "bbbbcc"], ["bb"]),
    ("root ::= .{3}", ".{3}", ["a\n日", "..."], ["ab", "abcd"]),
    (
        'root ::= ("größe" | "\\u65E5\\u672C" | [\\U0001F600-\\U0001F64F] | [ぁ-ゟ]+) "。"',
        "(größe|日本|[😀-🙏]|[ぁ-ゟ]+)。",
        ["größe。", "日本。", "😀。", "ひらがな。"],
        ["größe.", "日。", "🚀。", "カナ。"],
    ),
    (COMMENTED, "[abc]!", ["a!", "b!", "c!"], ["!", "d!"]),
    ('root ::= ( | "a") x ""+\nx ::= | "b" | ""', "a?b?", ["", "a", "b", "ab"], ["ba", "aa"]),
    ('root ::= ""', "", [""], ["a"]),
]


@pytest.mark.parametrize(("grammar", "judge", "good", "bad"), GRAMMARS)
def test_an_answer_that_ends_follows_its_grammar(
    compiler: GrammarCompiler,
    walker: Walker,
    accepted: Accepted,
    grammar: str,
    judge: str | Callable[[str], bool],
    good: list[str],
    bad: list[str],
) -> None:
    params = by_grammar(grammar)
    for seed in range(8):
        answer = walker.answer(compiler.compile_grammar(params), random.Random(seed), free=seed)
        follows = (
            re.fullmatch(judge, answer, re.DOTALL) if isinstance(judge, str) else judge(answer)
        )
        assert follows, answer
    assert all(accepted(params, text) for text in good)
    assert not any(accepted(params, text) for text in bad)


def test_recursion_on_the_right_has_no_end_of_its_own(accepted: Accepted) -> None:
    assert accepted(by_grammar("root ::= [a-z ] root | [a-z ]"), " and so on" * 300)


def test_a_grammar_that_grows_too_ambiguous_ends_its_own_request(accepted: Accepted) -> None:
    with pytest.raises(EngineError, match="read in too many ways at once"):
        accepted(by_grammar("root ::= root root | [a-z ]"), " and" * 1000)
    assert accepted(by_grammar("root ::= root root | [a-z ]"), " and")


@pytest.mark.parametrize("regex", ["[A-Z][a-z]{3,8}", "^yes|no$", r"(?i)paris", "[^\\n]{0,9}"])
def test_an_answer_matches_the_regex_as_a_whole(
    compiler: GrammarCompiler, walker: Walker, regex: str
) -> None:
    for seed in range(5):
        constraint = compiler.compile_grammar(SamplingParams(regex=regex))
        assert re.fullmatch(regex, walker.answer(constraint, random.Random(seed)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (SamplingParams(regex="("), "regex: unclosed group"),
        (SamplingParams(regex="(?=a)b"), "regex: look-around"),
        (SamplingParams(regex="a\\b"), "regex: .*lookarounds not supported"),
        (by_grammar("root ::= [^\\x00-\\U0010FFFF]"), "grammar: no answer can begin"),
        # The model has tokens for most bytes, but not for 0xF1.
        (by_grammar('root ::= "\\U00040000"'), "grammar: no answer can begin"),
        (by_schema({"const": "\U00040000"}), "JSON schema: no answer can begin"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    compiler: GrammarCompiler, params: SamplingParams, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=f"^{message}") as caught:
        compiler.compile_grammar(params)
    assert "start:" not in str(caught.value)
