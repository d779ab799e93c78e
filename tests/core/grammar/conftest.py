"""The real model's vocabulary, for grammars to be followed on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.core.llama import Model
from tests.core.grammar.walker import Walker, is_complete


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(str(model_path))


@pytest.fixture(scope="module")
def compiler(model: Model) -> GrammarCompiler:
    return GrammarCompiler(model)


@pytest.fixture(scope="module")
def walker(model: Model) -> Walker:
    return Walker(model)


@pytest.fixture(scope="module")
def accepted(compiler: GrammarCompiler, model: Model) -> Callable[[SamplingParams, str], bool]:
    """Whether a text, in the model's own tokens, is a complete answer."""

    def accepted(params: SamplingParams, text: str) -> bool:
        constraint = compiler.compile_grammar(params)
        for token in model.tokenize(text, special=False):
            if not constraint.allowed()[token]:
                return False
            constraint.accept(token)
        return is_complete(constraint)

    return accepted
