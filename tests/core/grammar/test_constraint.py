"""Grammars and JSON schemas on the real model's vocabulary: whatever is drawn fulfils them."""

import base64
import ipaddress
import itertools
import json
import random
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import UUID4, TypeAdapter

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar import schema_strings
from llmstream_cli.core.grammar.constraint import Constraint, GrammarCompiler, Vocabulary
from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.core.llama import Model
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.core.grammar.hostile_grammars import HOSTILE_GRAMMARS, HOSTILE_SCHEMAS
from tests.core.grammar.json_schemas import SCHEMAS
from tests.gguf_files import write_llama, write_phi2

MOST_TOKENS = 4000


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(str(model_path))


@pytest.fixture(scope="module")
def compiler(model: Model) -> GrammarCompiler:
    return GrammarCompiler(model)


@pytest.fixture(scope="module")
def walker(model: Model) -> "Walker":
    return Walker(model)


def is_complete(constraint: Constraint) -> bool:
    """Whether the answer, by llguidance's own word, fulfils the grammar as it stands."""
    return constraint._matchers[0].is_accepting()


def must_end(constraint: Constraint) -> bool:
    """Whether nothing can follow, by llguidance's own word, but a token that ends the turn."""
    return constraint._matchers[0].is_stopped()


class Walker:
    """Draws answers at random among the allowed tokens, and comes to an end."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = range(vocabulary.vocab_size)
        self.pieces = [vocabulary.piece(token) for token in tokens]
        self.ends = [token for token in tokens if vocabulary.is_end_of_generation(token)]
        self.control = np.array([vocabulary.is_control(token) for token in tokens])
        self.control[self.ends] = False
        self.closing = np.array([bool(p) and set(p) <= set(b'"]})\n') for p in self.pieces])
        self.first = np.array([p[0] if p else 256 for p in self.pieces])
        self.length = np.array([len(p) for p in self.pieces])

    def answer(self, constraint: Constraint, rng: random.Random, *, free: int = 12) -> str:
        """Draw `free` tokens from all that are allowed, then such as are likely to lead out."""
        drawn = list[int]()
        for number in range(MOST_TOKENS):
            allowed = constraint.allowed()
            may_end = allowed[self.ends]
            assert may_end.all() if is_complete(constraint) else not may_end.any()
            assert not (allowed & self.control).any()
            if may_end.all() and (number > free or rng.random() < 0.5 or allowed.sum() == 3):
                constraint.accept(rng.choice(self.ends))
                assert must_end(constraint)
                return b"".join(self.pieces[token] for token in drawn).decode()
            assert not must_end(constraint)
            token = self._draw(allowed, rng, hurry=number > free)
            constraint.accept(token)
            drawn.append(token)
        raise AssertionError(b"".join(self.pieces[token] for token in drawn)[:400])

    def _draw(self, allowed: Any, rng: random.Random, *, hurry: bool) -> int:
        allowed[self.ends] = False
        if hurry and (allowed & self.closing).any() and rng.random() < 0.6:
            allowed = allowed & self.closing
        tokens = np.flatnonzero(allowed)
        if hurry:  # any first character is as likely as another, in its shortest token
            firsts = np.unique(self.first[tokens])
            first = rng.choice((firsts[firsts < 128] if firsts[0] < 128 else firsts).tolist())
            tokens = tokens[self.first[tokens] == first]
            return int(tokens[self.length[tokens].argmin()])
        return int(rng.choice(tokens))


def accepts(constraint: Constraint, model: Model, text: str) -> bool:
    """Whether a text, in the model's own tokens, is a complete answer."""
    for token in model.tokenize(text, special=False):
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return is_complete(constraint)


def json_schema(schema: object) -> SamplingParams:
    return SamplingParams(json_schema=json.dumps(schema, ensure_ascii=False))


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_that_ends_fulfils_its_schema(
    compiler: GrammarCompiler, walker: Walker, name: str
) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    answers = set()
    for seed in range(12):
        constraint = compiler.compile_grammar(json_schema(schema))
        answer = walker.answer(constraint, random.Random(seed), free=seed)
        validator.validate(json.loads(answer))
        answers.add(answer)
    assert len(answers) > 1 or name in {"null", "empty list"}


def strictly(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def checks(text: str) -> bool:
        parse(text)
        return True

    return checks


FORMATS: dict[str, Callable[[str], object]] = {
    "date": strictly(date.fromisoformat),
    "time": strictly(time.fromisoformat),
    "date-time": strictly(datetime.fromisoformat),
    "duration": strictly(TypeAdapter(timedelta).validate_python),
    "ipv4": strictly(ipaddress.IPv4Address),
    "ipv6": strictly(ipaddress.IPv6Address),
    "uuid": strictly(uuid.UUID),
    "uuid4": strictly(TypeAdapter(UUID4).validate_python),
    "email": re.compile(r"[^@\s]+@[^@\s]+\.[a-zA-Z]+").fullmatch,
    "hostname": re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*").fullmatch,
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*").fullmatch,
    "base64": strictly(partial(base64.b64decode, validate=True)),
    "base64url": strictly(base64.urlsafe_b64decode),
    "ipv4network": strictly(ipaddress.IPv4Network),
    "cidrv4": strictly(ipaddress.IPv4Interface),
    "json-pointer": re.compile("(/([^~/]|~[01])*)*").fullmatch,
    **{
        name: re.compile(schema_strings.FORMATS[name]).fullmatch
        for name in ("ulid", "nanoid", "cuid", "cuid2", "ksuid", "xid", "e164")
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_have_their_shape(compiler: GrammarCompiler, walker: Walker, name: str) -> None:
    for seed in range(10):
        constraint = compiler.compile_grammar(json_schema({"type": "string", "format": name}))
        value = json.loads(walker.answer(constraint, random.Random(seed), free=4))
        assert FORMATS[name](value), value


def test_a_date_is_one_of_the_calendar(compiler: GrammarCompiler, model: Model) -> None:
    def is_date(text: str) -> bool:
        constraint = compiler.compile_grammar(json_schema({"type": "string", "format": "date"}))
        return accepts(constraint, model, f'"{text}"')

    for parts in itertools.product(
        (1900, 2000, 2023, 2024), (0, 2, 4, 12, 13), (0, 1, 28, 29, 30, 31)
    ):
        text = "{}-{:02}-{:02}".format(*parts)
        try:
            date(*parts)
        except ValueError:
            assert not is_date(text), text
        else:
            assert is_date(text), text


NUMBERS = [
    0.1,
    1 / 3,
    -1.2345678901234567e-300,
    9.99e307,
    5e-324,
    2.5e22,
    1e15,
    2.0**62,
    7 * 10**18,
]


def test_numbers_end_and_any_of_double_precision_can_be_written(
    compiler: GrammarCompiler, model: Model
) -> None:
    def is_number(text: str, **schema: Any) -> bool:
        constraint = compiler.compile_grammar(json_schema(schema))
        return accepts(constraint, model, text)

    for number in NUMBERS:
        for text in (json.dumps(number), json.dumps(number).replace("e+", "E")):
            assert is_number(text), text
    for schema in ({}, {"type": "number"}, {"type": "number", "minimum": 0}):
        for text in ("0." + "1" * 21, "1" * 20, "9" * 19, "1e999", "1e-9999", "10e307", "9e308"):
            assert not is_number(text, **schema), text
    assert not is_number("1" * 20, type="integer")
    assert not is_number('{"a": [' + "0." + "6" * 21 + "]}")
    assert is_number(json.dumps({"a": "0." + "6" * 99, "1" * 99: [2, "\\" * 30, '"']}))


BOUNDS = [0, 1, -1, 0.5, -0.25, 3, 7.125, -99.5, 0.009, 1000, 123.456, 1e10, 2**52, 2**53 - 1]


def test_no_number_out_of_its_bounds_passes(compiler: GrammarCompiler, model: Model) -> None:
    """Read as double precision, as nearly every program reads JSON."""
    rng = random.Random(1)
    passed = 0
    for _ in range(150):
        bounds = {
            keyword: rng.choice(BOUNDS)
            for keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
            if rng.random() < 0.4
        }
        schema = {"type": rng.choice(["integer", "number"])} | bounds
        candidates = [
            f"{bound + delta:.{digits}f}"
            for bound in [rng.choice([*bounds.values(), 0])]
            for delta in (0, 1e-9, -1e-9, 0.1, -0.1, 1, -1, rng.uniform(-9, 9))
            for digits in (0, 3, 12)
        ]
        for text in [*candidates, "-0", "0.0", "0.99999999999999999999", "1e5", "1E-5"]:
            try:
                constraint = compiler.compile_grammar(json_schema(schema))
            except InvalidValueError:  # the bounds leave nothing
                assert bounds
                break
            if accepts(constraint, model, text):
                jsonschema.validate(json.loads(text), schema)
                passed += 1
    assert passed > 250


PATTERNS = [
    r"\d+",
    r"^\w*$",
    r"^[^\d]$",
    "a|b",
    "^(a|b)+$",
    r"^\S{2,3}$",
    ".",
    r"^\.\/$",
    r"\\",
    "é$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_regular_expressions_do(
    compiler: GrammarCompiler, model: Model, pattern: str
) -> None:
    rng = random.Random(pattern)
    expression = re.compile(pattern, re.ASCII)
    for _ in range(80):
        text = "".join(rng.choices("ab1_é.\\/ ", k=rng.randrange(5)))
        constraint = compiler.compile_grammar(json_schema({"type": "string", "pattern": pattern}))
        answer = json.dumps(text, ensure_ascii=False)
        assert accepts(constraint, model, answer) == bool(expression.search(text)), text


def test_white_space_is_a_space_or_a_line_s_indentation(
    compiler: GrammarCompiler, model: Model
) -> None:
    def accepted(text: str) -> bool:
        return accepts(compiler.compile_grammar(json_schema({"type": "object"})), model, text)

    value = {"a": [1, 2], "b": {"c": None}}
    assert accepted(json.dumps(value, separators=(",", ":")))
    assert all(accepted(json.dumps(value, indent=indent)) for indent in (None, 0, 1, 2, 4, "\t"))
    assert accepted('{\n"a" : [ 1 , 2 ]\n}')
    assert not accepted('{  "a": 1}')
    assert not accepted('{"a":\n\n1}')
    assert not accepted(f'{{\n{" " * 21}"a": 1}}')
    assert not accepted(" {}")
    assert not accepted("{} ")


def test_strings_hold_any_character_and_escape_what_json_wants_escaped(
    compiler: GrammarCompiler, model: Model
) -> None:
    def accepted(text: str) -> bool:
        return accepts(compiler.compile_grammar(json_schema({"type": "string"})), model, text)

    for text in ("日本語 😀 é \u2028", 'quote " and \\ and \n\t\b\f\r', "\x01\x7f", "<|im_end|>"):
        assert accepted(json.dumps(text, ensure_ascii=text.isascii()))
    assert not accepted('"a\nb"')
    assert not accepted('"\\q"')
    assert not accepted('"\\u12"')


def test_characters_of_many_bytes_come_token_by_token(
    compiler: GrammarCompiler, model: Model, walker: Walker
) -> None:
    """Every token in the midst of a character continues that character and no other."""
    for text in ("日本語", "😀🇦🇹", "éß½", "𓀀𓂀𓃰"):
        for grammar in (
            SamplingParams(grammar=f'root ::= "{text}"'),
            SamplingParams(grammar=f"root ::= [{text}]{{{len(text)}}}"),
            json_schema({"const": text}),
        ):
            constraint, answer = compiler.compile_grammar(grammar), b""
            rng = random.Random(text)
            while not is_complete(constraint):
                token = int(rng.choice(np.flatnonzero(constraint.allowed()).tolist()))
                constraint.accept(token)
                answer += walker.pieces[token]
            assert set(answer.decode().strip('"')) <= set(text)
            assert len(answer.decode().strip('"')) == len(text)


def test_control_tokens_never_stand_for_their_text(
    compiler: GrammarCompiler, model: Model, walker: Walker
) -> None:
    constraint = compiler.compile_grammar(SamplingParams(grammar='root ::= "<|im_start|>"'))
    (control,) = model.tokenize("<|im_start|>", special=True)
    assert not constraint.allowed()[control]
    assert walker.answer(constraint, random.Random(0)) == "<|im_start|>"


def test_any_token_that_ends_a_turn_ends_the_answer(
    compiler: GrammarCompiler, model: Model, walker: Walker
) -> None:
    assert len(walker.ends) == 3
    (word,) = model.tokenize("yes", special=False)
    for end in walker.ends:
        constraint = compiler.compile_grammar(SamplingParams(grammar='root ::= "yes"'))
        assert not constraint.allowed()[walker.ends].any()
        constraint.accept(word)
        assert np.flatnonzero(constraint.allowed()).tolist() == walker.ends
        assert (is_complete(constraint), must_end(constraint)) == (True, True)
        constraint.accept(end)
        assert np.flatnonzero(constraint.allowed()).tolist() == walker.ends


def test_the_empty_answer_can_be_a_grammar_s_only_one(
    compiler: GrammarCompiler, walker: Walker
) -> None:
    constraint = compiler.compile_grammar(SamplingParams(grammar='root ::= ""'))
    assert walker.answer(constraint, random.Random(0)) == ""


def test_a_text_that_the_vocabulary_cannot_write_ends_the_request_with_an_error(
    compiler: GrammarCompiler, model: Model
) -> None:
    """The model has tokens for most bytes, but not for 0xF1, with which U+40000 begins."""
    pieces = {model.piece(token) for token in range(model.vocab_size)}
    assert not any(b"\xf1" in piece for piece in pieces)
    with pytest.raises(InvalidValueError, match="no answer can begin"):
        compiler.compile_grammar(SamplingParams(grammar='root ::= "\\U00040000"'))
    grammar = SamplingParams(grammar='root ::= [ab]+ "\\U00040000"')
    assert not accepts(compiler.compile_grammar(grammar), model, "abba")
    constraint = compiler.compile_grammar(SamplingParams(grammar='root ::= [ab] "\\U00040000"'))
    (letter,) = model.tokenize("a", special=False)
    constraint.accept(letter)
    with pytest.raises(EngineError, match="no token of this vocabulary fits"):
        constraint.allowed()


def test_a_mask_may_be_written_to(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile_grammar(json_schema({"type": "string"}))
    first = constraint.allowed()
    first[:] = False
    assert constraint.allowed().any()


def test_a_token_that_is_not_allowed_ends_the_request_with_an_error(
    compiler: GrammarCompiler, model: Model
) -> None:
    constraint = compiler.compile_grammar(json_schema({"type": "boolean"}))
    other = compiler.compile_grammar(json_schema({"type": "boolean"}))
    (word,) = model.tokenize("yes", special=False)
    with pytest.raises(EngineError, match="the grammar cannot be followed") as caught:
        constraint.accept(word)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError):
        constraint.allowed()
    assert accepts(other, model, "true")


def test_a_grammar_that_grows_too_ambiguous_ends_its_own_request(
    compiler: GrammarCompiler, model: Model
) -> None:
    grammar = SamplingParams(grammar="root ::= root root | [a-z ]")
    constraint = compiler.compile_grammar(grammar)
    (word,) = model.tokenize(" and", special=False)
    with pytest.raises(EngineError, match="read in too many ways at once"):
        accepts(constraint, model, " and" * 1000)
    assert compiler.compile_grammar(grammar).allowed()[word]


# Grammars with a judge of their own: a regular expression, or a function.

JSON_GRAMMAR = r"""
root   ::= object   # as llama.cpp's own example, in other words
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ws ("," ws string ":" ws value ws)* )? "}"
array  ::= "[" ws ( value ws ("," ws value ws)* )? "]"
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws     ::= ([ \t\n] ws)?
"""

ARITHMETIC = r"""
root ::= expr
expr ::= term (("+" | "-") term)*
term ::= factor (("*" | "/") factor)*
factor ::= number | "(" expr ")" | "-" factor
number ::= [1-9] [0-9]{0,3}
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


def is_arithmetic(text: str) -> bool:
    if not re.fullmatch(r"[-+*/()0-9]+", text) or re.search(r"\b0|\d{5}|\+\+|[+*/(-]\+", text):
        return False
    compile(text, "<answer>", "eval")
    return True


def is_json_object(text: str) -> bool:
    return isinstance(json.loads(text), dict)


def is_balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += {"(": 1, ")": -1}[char]
        if depth < 0:
            return False
    return depth == 0 and text != ""


def matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text, re.DOTALL) is not None


# What is accepted, some answers that are, and some that are not.
GRAMMARS: dict[str, tuple[str, Callable[[str], bool], list[str], list[str]]] = {
    "choice": (
        'root ::= "yes" | "no" | "not sure"',
        matches("yes|no|not sure"),
        ["yes", "no", "not sure"],
        ["not", "maybe", "Yes", "yes "],
    ),
    "longest match is no trap": (
        'root ::= word "end"\nword ::= [den]+',
        matches("[den]+end"),
        ["needend", "endend", "enend"],
        ["end", "need", "send"],
    ),
    "common beginnings": (
        'root ::= "a" "bc" | "ab" "d" | "ab"',
        matches("abc|abd|ab"),
        ["abc", "abd", "ab"],
        ["a", "abcd"],
    ),
    "arithmetic": (
        ARITHMETIC,
        is_arithmetic,
        ["1+2*3", "(1-2)/-(34)", "--5"],
        ["1+", "01", "(1", "12345", ""],
    ),
    "balanced, by recursion in the midst": (
        'root ::= "(" root? ")" root?',
        is_balanced,
        ["()", "(())()", "()()()"],
        ["(", ")(", "())"],
    ),
    "balanced, by recursion on the left": (
        'root ::= root root | "(" root ")" | "()"',
        is_balanced,
        ["()", "(())()", "()()()"],
        ["(", ")(", "())"],
    ),
    "list": (
        'root ::= item+\nitem ::= "- " [^\\r\\n]+ "\\n"',
        matches(r"(- [^\r\n]+\n)+"),
        ["- milk\n- eggs\n"],
        ["- milk", "-milk\n", "- \n"],
    ),
    "list, by recursion on the right": (
        'root ::= item "," root | item\nitem ::= [a-z]{2,4}',
        matches(r"[a-z]{2,4}(,[a-z]{2,4})*"),
        ["ab,cd,efgh", "abc"],
        ["a", "ab,", "abcde"],
    ),
    "json": (
        JSON_GRAMMAR,
        is_json_object,
        ["{}", '{"a": [1, -2.5e3, "x\\n日本"], "b":{"c" : null}}'.replace('" :', '":')],
        ["[]", '{"a" 1}', '{"a": 01}', '{"a": "\n"}'],
    ),
    "classes": (
        'root ::= [a-cX-Z0] [^a-c\\]\\n] [\\-+] [\\x41-\\u0043] "/"',
        matches(r"[a-cX-Z0][^a-c\]\n][-+][ABC]/"),
        ["aé-A/", "0d+C/", "X😀-B/"],
        ["da-A/", "aa-A/", "ad*A/", "ad-D/", "ad-A"],
    ),
    "repetition": (
        'root ::= "a"{2} "b"{1,2} "c"{0,2} ("d" "e"){2,} "f"?',
        matches("aab{1,2}c{0,2}(de){2,}f?"),
        ["aabdede", "aabbccdededef"],
        ["abdede", "aabbbdede", "aabde", "aabdedeff"],
    ),
    "repetition of repetition": (
        'root ::= ("a"? "b"){2}{2} [c]*{2}',
        matches("(a?b){4}c*"),
        ["bbbb", "abababab", "bbbbcc"],
        ["bb", "bbbcb"],
    ),
    "any character": ("root ::= .{3}", matches(".{3}"), ["a\n日", "..."], ["ab", "abcd"]),
    "unicode": (
        'root ::= ("größe" | "\\u65E5\\u672C" | [\\U0001F600-\\U0001F64F] | [ぁ-ゟ]+) "。"',
        matches("(größe|日本|[😀-🙏]|[ぁ-ゟ]+)。"),
        ["größe。", "日本。", "😀。", "ひらがな。"],
        ["größe.", "日。", "🚀。", "カナ。"],
    ),
    "comments, newlines and names": (
        COMMENTED,
        matches("[abc]!"),
        ["a!", "b!", "c!"],
        ["!", "d!"],
    ),
    "empty alternatives": (
        'root ::= ( | "a") x\nx ::= | "b" | ""',
        matches("a?b?"),
        ["", "a", "b", "ab"],
        ["ba", "aa"],
    ),
    "date": (
        'root ::= [0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ([0-2] [0-9] | "3" [01])',
        matches(r"\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])"),
        ["2026-11-25"],
        ["2026-13-01", "26-01-01", "2026-01-32"],
    ),
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_an_answer_that_ends_follows_its_grammar(
    compiler: GrammarCompiler, model: Model, walker: Walker, name: str
) -> None:
    grammar, judge, good, bad = GRAMMARS[name]
    params = SamplingParams(grammar=grammar)
    for seed in range(15):
        answer = walker.answer(compiler.compile_grammar(params), random.Random(seed), free=seed)
        assert judge(answer), answer
    for text in good:
        assert judge(text)
        assert accepts(compiler.compile_grammar(params), model, text), text
    for text in bad:
        assert not accepts(compiler.compile_grammar(params), model, text), text


def test_recursion_on_the_right_has_no_end_of_its_own(
    compiler: GrammarCompiler, model: Model
) -> None:
    constraint = compiler.compile_grammar(SamplingParams(grammar="root ::= [a-z ] root | [a-z ]"))
    assert accepts(constraint, model, " and so on" * 300)


# What compiles only to be refused: the words of llguidance, in one line.
STRING = {"type": "string"}
INTEGER = {"type": "integer"}
REFUSED_SCHEMAS: dict[str, dict[str, Any]] = {
    ": no value fulfils it: incompatible types": {"allOf": [STRING, INTEGER]},
    r" at /allOf/1: no value fulfils it: minLength \(5\) is greater than maxLength \(3\)": {
        "allOf": [STRING, STRING | {"minLength": 5, "maxLength": 3}]
    },
    r" at /items/properties/a~1b: no value fulfils it: minimum \(5\) is greater": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"a/b": {"type": "number", "minimum": 5, "maximum": 3}},
            "required": ["a/b"],
        },
    },
    r" at /\$defs/a/items: unclosed group": {
        "properties": {"x": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "array", "items": STRING | {"pattern": "("}}},
    },
    r" at /properties/b: unrecognized escape": {
        "properties": {"a": STRING | {"pattern": r"\d"}, "b": STRING | {"pattern": r"\e"}}
    },
    " at /allOf/1: no value fulfils it: Regex is empty": {
        "allOf": [STRING, STRING | {"pattern": "^a$", "minLength": 2}]
    },
    ": no name may match two patterns": {
        "type": "object",
        "patternProperties": {"a": {}, "b": {}},
    },
    r": no value fulfils it: minItems \(5\) is greater": {
        "type": "array",
        "minItems": 5,
        "maxItems": 3,
    },
}


@pytest.mark.parametrize("message", REFUSED_SCHEMAS)
def test_what_cannot_be_compiled_is_refused_in_one_line(
    compiler: GrammarCompiler, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=f"^JSON schema{message}") as caught:
        compiler.compile_grammar(json_schema(REFUSED_SCHEMAS[message]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_grammar_that_this_vocabulary_cannot_begin_is_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidValueError, match="no answer can begin"):
        compiler.compile_grammar(SamplingParams(grammar="root ::= [^\\x00-\\U0010FFFF]"))


def test_hostile_grammars_neither_crash_nor_hang_nor_fill_the_memory(model_path: Path) -> None:
    """In a process of their own; each ends in an error or in allowed tokens."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.grammar.hostile_grammars", str(model_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        cwd=Path(__file__).parents[3],
    )
    assert (done.returncode, done.stderr) == (0, "")
    outcomes = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert outcomes.keys() == {*HOSTILE_GRAMMARS, *HOSTILE_SCHEMAS, "memory"}
    assert outcomes["parentheses"].startswith("grammar, line 1, column 74: parentheses are nested")
    assert outcomes["huge length"] == "followed"
    assert outcomes["optional symbols"].endswith("it can be read in too many ways at once")
    assert int(outcomes["memory"].removesuffix(" MB")) < 1500


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_schemas_are_fulfilled_or_refused(
    compiler: GrammarCompiler, walker: Walker, data: st.DataObject
) -> None:
    schema = data.draw(random_schemas)
    try:
        constraint = compiler.compile_grammar(json_schema(schema))
    except InvalidValueError as error:
        event(str(error)[:60])
        return
    answer = walker.answer(constraint, random.Random(data.draw(st.integers())), free=8)
    ignored = set(read_schema(json.dumps(schema)).ignored)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    for failure in validator.iter_errors(json.loads(answer)):
        # A part that is passed over may be what no choice fits for.
        if not any(_is_below(cause, ignored) for cause in (failure, *_all_causes(failure))):
            raise failure


def _is_below(error: jsonschema.ValidationError, places: set[str]) -> bool:
    """Whether an error is about a keyword at one of the places, or something in it."""
    _, _, path = f"/$ref/{'/'.join(map(str, error.absolute_schema_path))}/".rpartition("/$ref/")
    return any(f"/{path}".startswith(f"{place}/") for place in places)


def _all_causes(error: jsonschema.ValidationError) -> Iterator[jsonschema.ValidationError]:
    for cause in error.context or ():
        yield cause
        yield from _all_causes(cause)


_bounds = st.integers(-20, 20) | st.sampled_from([0.5, -1.25, 3.75, 1e-3])
_counts = st.integers(0, 4)
_names = st.sampled_from(["a", "b", "é", ""])
_leaves = st.one_of(
    st.booleans(),
    st.just({}),
    st.fixed_dictionaries({"const": st.none() | st.text('aé日😀\\"\n', max_size=4) | _bounds}),
    st.fixed_dictionaries({"enum": st.lists(st.integers(-9, 9) | st.text("ab"), min_size=1)}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={
            "minimum": _bounds,
            "exclusiveMinimum": _bounds,
            "maximum": _bounds,
            "exclusiveMaximum": _bounds,
            "multipleOf": st.sampled_from([1, 3, 0.5]),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("string")},
        optional={
            "minLength": _counts,
            "maxLength": _counts,
            "pattern": st.sampled_from(
                ["^a", "[a-h]$", "[0-9]", "^[^a]*$", "^(?=.*b)a", r"^(?!\.).", "[[&&]"]
            ),
            "format": st.sampled_from(["ipv4", "date", "uuid", "json-pointer", "path"]),
            "uniqueItems": st.booleans(),
            "minLenght": _counts,
        },
    ),
    st.just({"$ref": "#"}),
)
# A program that checks `not` of a reference to itself never ends.
_without_references = st.sampled_from([{}, {"type": "string"}, {"const": 1}, {"required": ["a"]}])
random_schemas = st.recursive(
    _leaves,
    lambda parts: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array")},
            optional={
                "items": parts,
                "prefixItems": st.lists(parts, max_size=2),
                "minItems": _counts,
                "maxItems": _counts,
                "uniqueItems": st.booleans(),
                "contains": parts,
                "unevaluatedItems": _without_references,
            },
        ),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["object", ["object", "null"]])},
            optional={
                "properties": st.dictionaries(_names, parts, max_size=3),
                "required": st.lists(_names, max_size=3, unique=True),
                "additionalProperties": parts,
                "minProperties": _counts,
                "maxProperties": _counts,
                "propertyNames": st.sampled_from(
                    [
                        True,
                        {"type": "string"},
                        {"enum": ["a", "b", ""]},
                        {"pattern": "^[ab]"},
                        {"maxLength": 2},
                        {"const": "a", "minLength": 1},
                    ]
                ),
                "dependentRequired": st.dictionaries(
                    _names, st.lists(_names, max_size=2, unique=True), max_size=2
                ),
                "dependentSchemas": st.dictionaries(_names, parts, max_size=1),
                "unevaluatedProperties": _without_references,
            },
        ),
        st.fixed_dictionaries(dict.fromkeys(("not", "if", "then"), _without_references)),
        st.fixed_dictionaries({"anyOf": st.lists(parts, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(parts, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(parts, min_size=1, max_size=2)}),
    ),
    max_leaves=6,
)


def test_the_vocabulary_is_read_once_whoever_asks_first(model: Model) -> None:
    class Counting:
        vocab_size = model.vocab_size
        is_control = staticmethod(model.is_control)
        is_end_of_generation = staticmethod(model.is_end_of_generation)
        tokenize = staticmethod(model.tokenize)
        pieces_read = 0

        def piece(self, token: int) -> bytes:
            self.pieces_read += 1
            return model.piece(token)

    vocabulary = Counting()
    compiler = GrammarCompiler(vocabulary)
    barrier = threading.Barrier(8)

    def compile_one(number: int) -> bool:
        barrier.wait(60)
        constraint = compiler.compile_grammar(json_schema({"const": number}))
        return accepts(constraint, model, str(number))

    assert vocabulary.pieces_read == 0
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(compile_one, range(8)))
    assert 0 < vocabulary.pieces_read <= model.vocab_size


@pytest.mark.parametrize("write", [write_llama, write_phi2])
def test_other_kinds_of_vocabularies(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """SentencePiece, which puts a space before any text, and bytes; of sizes that fill no word."""
    model = Model(str(write(tmp_path / "tiny.gguf")))
    compiler, walker = GrammarCompiler(model), Walker(model)
    assert model.vocab_size % 32
    for name in ("person", "empty key", "pattern of many bytes", "tree"):
        for seed in range(5):
            constraint = compiler.compile_grammar(json_schema(SCHEMAS[name]))
            answer = walker.answer(constraint, random.Random(seed))
            jsonschema.validate(json.loads(answer), SCHEMAS[name])
    constraint = compiler.compile_grammar(json_schema({"const": {"the of and": "日本 "}}))
    assert json.loads(walker.answer(constraint, random.Random(0))) == {"the of and": "日本 "}


def test_a_vocabulary_without_an_end_follows_no_grammar(model: Model) -> None:
    class Endless:
        vocab_size = 3
        piece = staticmethod([b"a", b"b", b"c"].__getitem__)

        def is_control(self, token: int) -> bool:
            return False

        is_end_of_generation = is_control

        def tokenize(self, text: str, *, special: bool) -> list[int]:
            return [b"abc".index(byte) for byte in text.encode()]

    with pytest.raises(InvalidValueError, match="no token that ends an answer"):
        GrammarCompiler(Endless()).compile_grammar(SamplingParams(grammar='root ::= "a"'))


def test_the_engine_loads_llguidance_only_when_it_is_asked_for_a_grammar() -> None:
    program = """
import sys
import llmstream_cli.cli.ask.command, llmstream_cli.engines.in_process
assert "llguidance" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    "regex", ["[A-Z][a-z]{3,8}", "^yes|no$", r"\d{4}-\d{2}", r"(?i)paris", "[^\\n]{0,9}"]
)
def test_an_answer_matches_the_regex_as_a_whole(
    compiler: GrammarCompiler, walker: "Walker", regex: str
) -> None:
    for seed in range(5):
        constraint = compiler.compile_grammar(SamplingParams(regex=regex))
        assert re.fullmatch(regex, walker.answer(constraint, random.Random(seed)))


@pytest.mark.parametrize(
    ("regex", "reason"),
    [("(", "unclosed group"), ("(?=a)b", "look-around"), ("a\\b", "lookarounds")],
)
def test_a_regex_that_cannot_be_followed(
    compiler: GrammarCompiler, regex: str, reason: str
) -> None:
    with pytest.raises(InvalidValueError, match=rf"^regex: .*{reason}") as caught:
        compiler.compile_grammar(SamplingParams(regex=regex))
    assert caught.value.field == "regex"
    assert "start:" not in str(caught.value)
