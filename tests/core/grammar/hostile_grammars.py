"""Grammars and schemas made to crash a compiler, to keep it busy, or to fill the memory.

    python -m tests.core.grammar.hostile_grammars MODEL

prints what became of each.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.core.llama import Model
from llmstream_cli.errors import LLMStreamError

HOSTILE_GRAMMARS = {
    "parentheses": f'root ::= {"(" * 20_000}"a"{")" * 20_000}',
    "nested repetition": "root ::= ((([a-z]{0,1000}){0,1000}){0,1000}){0,1000}",
    "nested counts": 'root ::= ((("a"{10000}){10000}){10000}){10000}',
    "optional symbols": f"root ::= {'[a-z]? ' * 8000}",
    "alternatives": f"root ::= ({' | '.join(f'[{chr(97 + n % 25)}-z]' for n in range(6000))})*",
    "ambiguous repetition": "root ::= (([a-z]*)*)*",
    "ambiguous sequence": f"root ::= {'[a-z]* ' * 12}",
    "ambiguous recursion": "root ::= root root root? | [a-z]?",
    "hidden left recursion": "root ::= a? root [a-z] | [a-z]\na ::= b?\nb ::= a? [a-z]?",
    "palindromes": "root ::= [ab] root [ab] | [ab]?",
    "long string": f'root ::= "{"a" * 15_000}"',
    "comment": f'root ::= "a" {"#" * 60_000}',
}

HOSTILE_SCHEMAS: dict[str, object] = {
    "regular expression": {"type": "string", "pattern": "(a{0,1000}){0,1000}"},
    "exponential expression": {"type": "string", "pattern": "^(a|b)*a(a|b){300}$"},
    "nested expression": {"type": "string", "pattern": "(" * 3000 + ")" * 3000},
    "overlapping expression": {"type": "string", "pattern": "^(a+)+(a|aa)+(b|a)*x$"},
    "large classes": {"type": "string", "pattern": "^[\\p{L}\\p{N}]{1,900}[^\\p{L}]{1,900}$"},
    "intersection": {
        "allOf": [{"type": "string", "pattern": f"^(.{{{n}}})*$"} for n in (7, 11, 13, 17, 19)]
    },
    "huge counts": {"type": "array", "minItems": 2**31 - 1, "items": {"const": 1}},
    "huge length": {"type": "string", "minLength": 2**31 - 1},
    "huge map": {"type": "object", "maxProperties": 2**31 - 1, "additionalProperties": True},
    "large multiple": {"type": "integer", "multipleOf": 2**31 - 1},
    "multiples": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]},
    "properties": {"type": "object", "properties": {f"p{n}": {} for n in range(3000)}},
    "long names": {"required": ["k" * 900 + str(n) for n in range(50)], "type": "object"},
    "enum": {"enum": [f"v{n}" for n in range(6000)]},
    "exponential allOf": {
        "allOf": [
            {"anyOf": [{"type": "object", "required": [f"{side}{n}"]} for side in "abc"]}
            for n in range(14)
        ]
    },
    "shared references": {
        "$ref": "#/$defs/0",
        "$defs": {
            f"{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/{min(n + 1, 29)}"}] * 2}
            for n in range(30)
        },
    },
    "nested schemas": json.loads('{"items":' * 90 + "{}" + "}" * 90),
    "nested value": {"const": json.loads("[" * 90 + "]" * 90)},
}


def follow(compiler: GrammarCompiler, params: SamplingParams) -> str:
    """Compile a grammar and draw 30 tokens; return the error that ends it, or `followed`."""
    try:
        constraint = compiler.compile_grammar(params)
        for number in range(30):
            tokens = np.flatnonzero(constraint.allowed())
            constraint.accept(int(tokens[number * 7919 % len(tokens)]))
    except LLMStreamError as error:
        return str(error)
    return "followed"


if __name__ == "__main__":
    compiler = GrammarCompiler(Model(sys.argv[1]))
    for name, grammar in HOSTILE_GRAMMARS.items():
        print(f"{name}: {follow(compiler, SamplingParams(grammar=grammar))}", flush=True)
    for name, schema in HOSTILE_SCHEMAS.items():
        params = SamplingParams(json_schema=json.dumps(schema))
        print(f"{name}: {follow(compiler, params)}", flush=True)
    # Not `ru_maxrss`, which begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert peak is not None
    print(f"memory: {int(peak[1]) // 1024} MB")
