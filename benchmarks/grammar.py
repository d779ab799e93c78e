"""Time to read a vocabulary, to compile grammars, and to tell the tokens that may come next.

    python benchmarks/grammar.py [MODEL.gguf]

Follows the tokens of one answer, many times; prints medians.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import Constraint, GrammarCompiler
from llmstream_cli.core.llama import Model
from llmstream_cli.models.resolve import resolve

ROUNDS = 30

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["new", "vip", "staff"]}, "maxItems": 3},
    },
    "required": ["name", "age", "email", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "label": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["label", "children"],
            "additionalProperties": False,
        }
    },
}
GBNF = r"""
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws ( string ":" ws value ws ("," ws string ":" ws value ws)* )? "}"
array  ::= "[" ws ( value ws ("," ws value ws)* )? "]"
string ::= "\"" ( [^"\\\x00-\x1F] | "\\" ["\\/bfnrt] )* "\""
number ::= "-"? [0-9]+ ("." [0-9]+)?
ws     ::= [ \t\n]*
"""
PERSON_ANSWER = {
    "name": "Ada Lovelace, Countess",
    "age": 36,
    "email": "ada@example.org",
    "tags": ["vip", "new"],
}
TREE_ANSWER = {"label": "root", "children": [{"label": "a leaf of the tree", "children": []}]}

CASES: dict[str, tuple[SamplingParams, object]] = {
    "any JSON": (SamplingParams(json_schema="{}"), PERSON_ANSWER),
    "flat object": (SamplingParams(json_schema=json.dumps(PERSON)), PERSON_ANSWER),
    "recursive object": (SamplingParams(json_schema=json.dumps(TREE)), TREE_ANSWER),
    "JSON in GBNF": (SamplingParams(grammar=GBNF), PERSON_ANSWER),
}


def milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def follow(constraint: Constraint, tokens: list[int], logits: np.ndarray) -> list[list[float]]:
    """Return the microseconds of a mask, of its use and of the step to the next token, for each."""
    times = []
    for token in tokens:
        marks = [time.perf_counter()]
        allowed = constraint.allowed()
        marks.append(time.perf_counter())
        row = logits.copy()
        row[~allowed] = -np.inf
        marks.append(time.perf_counter())
        assert allowed[token]
        constraint.accept(token)
        marks.append(time.perf_counter())
        times.append([(end - start) * 1e6 for start, end in pairwise(marks)])
    return times


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    model = Model(sys.argv[1] if len(sys.argv) > 1 else str(resolve().path))
    compiler, before = GrammarCompiler(model), memory()
    once = milliseconds(partial(compiler.compile_grammar, CASES["any JSON"][0]))
    print(f"vocabulary of {model.vocab_size}: {once:.0f} ms once, {memory() - before:.0f} MB")
    logits = np.random.default_rng(1).normal(size=model.vocab_size).astype(np.float32)
    for name, (params, answer) in CASES.items():
        tokens = model.tokenize(json.dumps(answer), special=False)
        compiled, times = list[float](), list[list[float]]()
        for _ in range(ROUNDS):
            compiled.append(milliseconds(partial(compiler.compile_grammar, params)))
            times += follow(compiler.compile_grammar(params), tokens, logits)
        mask, use, step = (sorted(column) for column in zip(*times, strict=True))
        print(
            f"{name:17} compile {statistics.median(compiled):5.2f} ms, mask p50"
            f" {statistics.median(mask):5.0f} µs p99 {mask[len(mask) * 99 // 100]:5.0f} µs, apply"
            f" {statistics.median(use):3.0f} µs, accept {statistics.median(step):3.0f} µs"
        )


if __name__ == "__main__":
    main()
