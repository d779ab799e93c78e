"""Grammars and JSON schemas on the real model's vocabulary: whatever is drawn fulfils them."""

import itertools
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstream_cli.core.grammar.constraint import Constraint, GrammarCompiler
from llmstream_cli.core.grammar.json_schema import read_schema
from llmstream_cli.core.llama import Model
from llmstream_cli.errors import EngineError, InvalidValueError
from tests.core.grammar.hostile_grammars import HOSTILE_GRAMMARS, HOSTILE_SCHEMAS
from tests.core.grammar.json_schemas import FORMATS, INTEGER, SCHEMAS, STRING, random_schemas
from tests.core.grammar.walker import (
    Accepted,
    Walker,
    by_grammar,
    by_schema,
    is_complete,
    must_end,
)
from tests.gguf_files import write_llama, write_phi2

pytestmark = pytest.mark.slow


# ---- JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_that_ends_fulfils_its_schema(
    compiler: GrammarCompiler, walker: Walker, name: str
) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    for seed in range(8):
        constraint = compiler.compile_grammar(by_schema(schema))
        validator.validate(json.loads(walker.answer(constraint, random.Random(seed), free=seed)))


@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(schema=random_schemas, seed=st.integers(0, 99))
def test_random_schemas_are_fulfilled_or_refused(
    compiler: GrammarCompiler, walker: Walker, schema: Any, seed: int
) -> None:
    try:
        constraint = compiler.compile_grammar(by_schema(schema))
    except InvalidValueError:
        return
    value = json.loads(walker.answer(constraint, random.Random(seed), free=8))
    if not read_schema(json.dumps(schema)).ignored:
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(value)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_have_their_shape(compiler: GrammarCompiler, walker: Walker, name: str) -> None:
    for seed in range(6):
        constraint = compiler.compile_grammar(by_schema({"type": "string", "format": name}))
        value = json.loads(walker.answer(constraint, random.Random(seed), free=4))
        assert FORMATS[name](value), value


def test_a_date_is_one_of_the_calendar(accepted: Accepted) -> None:
    for year, month, day in itertools.product(
        (1900, 2000, 2023, 2024), (0, 2, 4, 12, 13), (28, 30)
    ):
        for number in (day, day + 1):
            text = f"{year}-{month:02}-{number:02}"
            try:
                date.fromisoformat(text)
                is_date = True
            except ValueError:
                is_date = False
            assert accepted(by_schema({"type": "string", "format": "date"}), f'"{text}"') == is_date


def test_numbers_end_and_any_of_double_precision_can_be_written(accepted: Accepted) -> None:
    for number in (0.1, 1 / 3, -1.2345678901234567e-300, 9.99e307, 5e-324, 2.5e22, 2.0**62, 7e18):
        for text in (json.dumps(number), json.dumps(number).replace("e+", "E")):
            assert accepted(by_schema({}), text), text
    for text in ("0." + "1" * 21, "1" * 20, "9" * 19, "1e999", "1e-9999", "10e307", "9e308"):
        assert not any(accepted(by_schema(s), text) for s in ({}, {"type": "number"})), text
        assert not accepted(by_schema({"type": "number", "minimum": 0}), text), text
    assert not accepted(by_schema({"type": "integer"}), "1" * 20)
    assert not accepted(by_schema({}), '{"a": [' + "0." + "6" * 21 + "]}")
    value = {"a": "0." + "6" * 99, "1" * 99: [2, "\\" * 30, '"']}
    assert accepted(by_schema({}), json.dumps(value))


BOUNDS = [0, 1, -1, 0.5, -0.25, 3, 7.125, -99.5, 0.009, 1000, 123.456, 1e10, 2**52, 2**53 - 1]


def test_no_number_out_of_its_bounds_passes(accepted: Accepted) -> None:
    """Read as double precision, as nearly every program reads JSON."""
    rng = random.Random(1)
    passed = 0
    for _ in range(50):
        keywords = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        bounds = {keyword: rng.choice(BOUNDS) for keyword in keywords if rng.random() < 0.4}
        schema = {"type": rng.choice(["integer", "number"])} | bounds
        near = rng.choice([*bounds.values(), 0])
        deltas = (0, 1e-9, -1e-9, 0.1, -0.1, 1, -1)
        texts = [f"{near + delta:.{digits}f}" for delta in deltas for digits in (0, 12)]
        for text in [*texts, "-0", "0.0", "0.99999999999999999999", "1e5", "1E-5"]:
            try:
                if not accepted(by_schema(schema), text):
                    continue
            except InvalidValueError:  # the bounds leave nothing
                break
            jsonschema.validate(json.loads(text), schema)
            passed += 1
    assert passed > 100


PATTERNS = [r"\d+", r"^\w*$", r"^[^\d]$", "a|b", "^(a|b)+$", r"^\S{2,3}$", ".", r"^\.\/$", r"\\"]


@pytest.mark.parametrize("pattern", [*PATTERNS, "é$", "[&&a~~]", r"^(?=.*b)(?:a|b|_)+$"])
def test_patterns_match_as_regular_expressions_do(accepted: Accepted, pattern: str) -> None:
    rng = random.Random(pattern)
    expression = re.compile(pattern.replace("&&", "&").replace("~~", "~"), re.ASCII)
    for _ in range(40):
        text = "".join(rng.choices("ab1_é.\\/ &~", k=rng.randrange(5)))
        answer = json.dumps(text, ensure_ascii=False)
        schema = {"type": "string", "pattern": pattern}
        assert accepted(by_schema(schema), answer) == bool(expression.search(text)), text


def test_white_space_is_a_space_or_a_line_s_indentation(accepted: Accepted) -> None:
    value, schema = {"a": [1, 2], "b": {"c": None}}, by_schema({"type": "object"})
    assert accepted(schema, json.dumps(value, separators=(",", ":")))
    assert all(accepted(schema, json.dumps(value, indent=i)) for i in (None, 0, 1, 2, 4, "\t"))
    for text in ('{  "a": 1}', '{"a":\n\n1}', f'{{\n{" " * 21}"a": 1}}', " {}", "{} "):
        assert not accepted(schema, text)


def test_strings_hold_any_character_and_escape_what_json_wants_escaped(accepted: Accepted) -> None:
    for text in ("日本語 😀 é \u2028", 'quote " and \\ and \n\t\b\f\r', "\x01\x7f", "<|im_end|>"):
        assert accepted(by_schema(STRING), json.dumps(text, ensure_ascii=text.isascii()))
    assert not any(accepted(by_schema(STRING), text) for text in ('"a\nb"', '"\\q"', '"\\u12"'))


UNSATISFIABLE: dict[str, dict[str, Any]] = {
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
    ": no name may match two patterns": {"type": "object", "patternProperties": {"a": {}, "b": {}}},
}


@pytest.mark.parametrize("message", UNSATISFIABLE)
def test_what_cannot_be_compiled_is_refused_in_one_line(
    compiler: GrammarCompiler, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=f"^JSON schema{message}[^\n]*$") as caught:
        compiler.compile_grammar(by_schema(UNSATISFIABLE[message]))
    assert len(str(caught.value)) < 250


# ---- tokens ---------------------------------------------------------------------------------


def test_characters_of_many_bytes_come_token_by_token(
    compiler: GrammarCompiler, walker: Walker
) -> None:
    """Every token in the midst of a character continues that character and no other."""
    for text in ("日本語", "😀🇦🇹", "𓀀𓂀𓃰"):
        for params in (by_grammar(f"root ::= [{text}]{{{len(text)}}}"), by_schema({"const": text})):
            constraint, answer, rng = compiler.compile_grammar(params), b"", random.Random(text)
            while not is_complete(constraint):
                token = int(rng.choice(np.flatnonzero(constraint.allowed()).tolist()))
                constraint.accept(token)
                answer += walker.pieces[token]
            assert set(answer.decode().strip('"')) <= set(text)
            assert len(answer.decode().strip('"')) == len(text)


def test_control_tokens_never_stand_for_their_text(
    compiler: GrammarCompiler, model: Model, walker: Walker
) -> None:
    constraint = compiler.compile_grammar(by_grammar('root ::= "<|im_start|>"'))
    (control,) = model.tokenize("<|im_start|>", special=True)
    assert not constraint.allowed()[control]
    assert walker.answer(constraint, random.Random(0)) == "<|im_start|>"


def test_any_token_that_ends_a_turn_ends_the_answer(
    compiler: GrammarCompiler, model: Model, walker: Walker
) -> None:
    assert len(walker.ends) == 3
    for end in walker.ends:
        constraint = compiler.compile_grammar(by_grammar('root ::= "yes"'))
        assert not constraint.allowed()[walker.ends].any()
        constraint.accept(*model.tokenize("yes", special=False))
        for token in (end, end):
            assert np.flatnonzero(constraint.allowed()).tolist() == walker.ends
            assert (is_complete(constraint), must_end(constraint)) == (True, True)
            constraint.accept(token)


def test_what_goes_wrong_ends_the_request_with_an_error(
    compiler: GrammarCompiler, model: Model
) -> None:
    constraint = compiler.compile_grammar(by_grammar('root ::= [ab] "\\U00040000"'))
    constraint.accept(*model.tokenize("a", special=False))
    with pytest.raises(EngineError, match="no token of this vocabulary fits"):
        constraint.allowed()
    constraint = compiler.compile_grammar(by_schema({"type": "boolean"}))
    constraint.allowed()[:] = False  # a mask may be written to
    assert constraint.allowed().any()
    with pytest.raises(EngineError, match=r"the grammar cannot be followed[^\n]*$"):
        constraint.accept(*model.tokenize("yes", special=False))
    with pytest.raises(EngineError):
        constraint.allowed()


def test_the_vocabulary_is_read_once_whoever_asks_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, piece = list[int](), model.piece
    monkeypatch.setattr(model, "piece", lambda token: (read.append(token), piece(token))[1])  # type: ignore[func-returns-value]
    compiler, barrier = GrammarCompiler(model), threading.Barrier(8)
    assert not read

    def compile_one(number: int) -> Constraint:
        barrier.wait(60)
        return compiler.compile_grammar(by_schema({"const": number}))

    with ThreadPoolExecutor(8) as pool:
        assert all(constraint.allowed().any() for constraint in pool.map(compile_one, range(8)))
    assert 0 < len(read) <= model.vocab_size


@pytest.mark.parametrize("write", [write_llama, write_phi2])
def test_other_kinds_of_vocabularies(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """SentencePiece, which puts a space before any text, and bytes; of sizes that fill no word."""
    model = Model(str(write(tmp_path / "tiny.gguf")))
    compiler, walker = GrammarCompiler(model), Walker(model)
    assert model.vocab_size % 32
    value = {"the of and": "日本 "}
    for schema in (SCHEMAS["person"], SCHEMAS["pattern of many bytes"], {"const": value}):
        for seed in range(4):
            constraint = compiler.compile_grammar(by_schema(schema))
            jsonschema.validate(json.loads(walker.answer(constraint, random.Random(seed))), schema)


def test_a_vocabulary_without_an_end_follows_no_grammar(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "is_end_of_generation", lambda _: False)
    with pytest.raises(InvalidValueError, match="no token that ends an answer"):
        GrammarCompiler(model).compile_grammar(by_grammar('root ::= "a"'))


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
    assert outcomes["huge length"] == "followed"
    assert outcomes["optional symbols"].endswith("it can be read in too many ways at once")
    assert int(outcomes["memory"].removesuffix(" MB")) < 1500
