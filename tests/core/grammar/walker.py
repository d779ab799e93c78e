"""Answers drawn at random among the tokens that a grammar allows."""

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.constraint import Constraint, Vocabulary

MOST_TOKENS = 4000

Accepted = Callable[[SamplingParams, str], bool]


def by_schema(schema: object) -> SamplingParams:
    return SamplingParams(json_schema=json.dumps(schema, ensure_ascii=False))


def by_grammar(grammar: str) -> SamplingParams:
    return SamplingParams(grammar=grammar)


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
