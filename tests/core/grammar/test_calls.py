"""Calls of tools on the real model's vocabulary: a grammar that takes hold in mid-answer."""

import json
import random
from decimal import Decimal

import numpy as np
import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.core.llama import Model
from llmstream_cli.errors import InvalidValueError
from tests.core.grammar.walker import Walker

pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
}
GRAMMAR = (
    'start: "<tool_call>\\n{\\"name\\": \\"weather\\", \\"arguments\\": " arguments "}"\n'
    f"arguments: %json {json.dumps(SCHEMA)}"
)
BEGINNING = '<tool_call>\n{"name": "we'


def test_a_grammar_holds_from_where_it_begins(compiler: GrammarCompiler, walker: Walker) -> None:
    constraint = compiler.compile_calls(GRAMMAR, [], begins_later=True)
    for seed in range(8):
        assert not constraint.is_active or seed
        constraint.begin(BEGINNING)
        text = BEGINNING + walker.answer(constraint, random.Random(seed), free=seed)
        call = json.loads(text.removeprefix("<tool_call>"))
        assert call["name"] == "weather"
        assert len(call["arguments"]["city"]) <= 5


def test_it_stays_out_of_what_begins_otherwise(compiler: GrammarCompiler) -> None:
    constraint = compiler.compile_calls(GRAMMAR, [], begins_later=True)
    assert constraint.allowed().all()
    constraint.begin('<tool_call>\n{"nome')
    assert not constraint.is_active
    assert constraint.allowed().all()
    constraint.accept(1)
    constraint.begin(BEGINNING)
    assert not constraint.allowed().all()


def test_a_number_comes_to_an_end(compiler: GrammarCompiler, model: Model) -> None:
    constraint = compiler.compile_calls(GRAMMAR, [], begins_later=False)
    digits = np.array([model.piece(token).isdigit() for token in range(model.vocab_size)])
    head = '<tool_call>\n{"name": "weather", "arguments": {"city": "", "degrees": 0.'
    for token in model.tokenize(head, special=False):
        constraint.accept(token)
    for _ in range(41):
        allowed = constraint.allowed() & digits
        if not allowed.any():
            return
        constraint.accept(int(np.flatnonzero(allowed)[0]))
    pytest.fail("41 digits")


def test_schemas_that_are_too_much_are_refused(compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidValueError, match="tools: "):
        compiler.compile_calls("start: missing", [], begins_later=True)


def test_an_answer_fulfils_its_schema_or_calls(compiler: GrammarCompiler, walker: Walker) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    constraint = compiler.compile_calls(
        GRAMMAR, [], begins_later=False, answer_schema=json.dumps(schema)
    )
    kinds = set()
    for seed in range(40):
        constraint.begin("")
        text = walker.answer(constraint, random.Random(seed), free=seed % 8)
        answer = json.loads(text.removeprefix("<tool_call>"))
        kinds.add(frozenset(answer))
        assert isinstance(answer.get("n", 0), int)
    assert kinds == {frozenset({"n"}), frozenset({"name", "arguments"})}


@pytest.mark.parametrize("bound", [0, 1.5])
def test_zeros_lead_out_of_a_number_above_a_bound(
    compiler: GrammarCompiler, model: Model, bound: float
) -> None:
    schema = {"type": "number", "exclusiveMinimum": bound}
    whole = compiler.compile_grammar(SamplingParams(json_schema=json.dumps(schema)))
    calls = compiler.compile_calls(f"start: %json {json.dumps(schema)}", [], begins_later=False)
    zero = model.tokenize("0", special=False)[-1]
    for constraint in (whole, calls):
        text = "1.5" if bound else "0."
        for token in model.tokenize(text, special=False):
            constraint.accept(token)
        for _ in range(60):
            allowed = constraint.allowed()
            ends = allowed[[*model.end_tokens]].all()
            token = zero if allowed[zero] else int(np.flatnonzero(allowed)[0])
            if ends and not allowed[zero]:
                break
            constraint.accept(token)
            text += model.piece(token).decode()
        assert Decimal(text) > Decimal(bound)
