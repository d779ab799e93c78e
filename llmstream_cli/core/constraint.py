"""Grammars and JSON schemas as sets of tokens that may come next.

llguidance compiles both and tells, after each token, which others can follow. It neither raises nor
aborts, and it is given limits: a grammar that needs too much work is refused when it is compiled,
or ends its own request.

A vocabulary of 49k tokens takes 23 MB, and 0.3 s to read; both come with the first request that has
a grammar. So does the import of llguidance, for which reason no other module imports this one
before it has to.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import llguidance
import numpy as np
import numpy.typing as npt

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.gbnf import gbnf_to_lark
from llmstream_cli.core.json_schema import read_schema
from llmstream_cli.errors import EngineError, InvalidValueError
from llmstream_cli.sampling import CONSTRAINTS

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# llguidance takes a token that begins with this byte, which no UTF-8 text contains, for a control
# token: nothing that a grammar describes can match it.
_CONTROL = b"\xff"

# Between two parts of a JSON text: nothing, a space, or a new line and its indentation. Models
# write worse where they may not break lines as they are used to (docs/structured-output.md has
# figures), and where white space is free a small one can go on with it for ever.
_JSON_STYLE: "JsonCompileOptions" = {"whitespace_pattern": r" |\n[ \t]{0,20}"}

# The constraints as llguidance reads them, and what messages call them.
_SOURCES: dict[str, Callable[[str], str]] = {
    "grammar": lambda text: llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(text)),
    "json_schema": lambda text: llguidance.LLMatcher.grammar_from_json_schema(
        read_schema(text), overrides=_JSON_STYLE
    ),
    "regex": llguidance.LLMatcher.grammar_from_regex,
}
_NAMES = {"grammar": "grammar", "json_schema": "JSON schema", "regex": "regex"}

# What llguidance says in the words of its own parser and options.
_REASONS = {
    "Too many items": "it can be read in too many ways at once",
    "Current row has": "it can be read in too many ways at once",
    "NoExtension": "no token of this vocabulary fits",
    "oneOf constraints": "the schemas of oneOf must exclude each other by their types or constants;"
    " anyOf need not",
}
_MAX_REASON = 200  # characters


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary; see `llmstream_cli.core.llama.Model`."""

    vocab_size: int

    def piece(self, token: int) -> bytes: ...  # noqa: D102
    def is_control(self, token: int) -> bool: ...  # noqa: D102
    def is_end_of_generation(self, token: int) -> bool: ...  # noqa: D102
    def tokenize(self, text: str, *, special: bool) -> list[int]: ...  # noqa: D102


class GrammarCompiler:
    """Compiles grammars for one model. Every method may be called from any thread.

    Args:
        vocabulary: read when the first grammar is compiled.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile_grammar(self, params: SamplingParams) -> "Constraint":
        """Compile a request's grammar, JSON schema or regular expression; it must have one.

        Most take a millisecond, the worst seen two seconds, in which other threads go on.

        Raises:
            InvalidValueError: it is invalid or too complex, asks for what is not supported, or
                cannot be followed with this model's vocabulary.
        """
        kind = next(name for name in CONSTRAINTS if getattr(params, name) is not None)
        try:
            return self._compile(_SOURCES[kind](getattr(params, kind)), _NAMES[kind])
        except InvalidValueError as error:
            raise InvalidValueError(str(error), kind) from error

    def _compile(self, source: str, what: str) -> "Constraint":
        matcher = llguidance.LLMatcher(
            self._get_tokenizer(),
            source,
            log_level=0,
            limits=llguidance.LLParserLimits(verbose_errors=False),
        )
        if matcher.is_error():
            raise InvalidValueError(f"{what}: {_reason(matcher)}")
        constraint = Constraint(matcher, self._vocabulary.vocab_size)
        try:
            constraint.allowed()
        except EngineError as error:
            raise InvalidValueError(f"{what}: no answer can begin: {error}") from error
        return constraint

    def _get_tokenizer(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _Tokens(self._vocabulary).build()
            return self._tokenizer


class Constraint:
    """Follows one answer through its grammar. Not thread-safe.

    Args:
        matcher: of a compiled grammar, before the first token.
        vocab_size: tokens in the vocabulary.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)  # llguidance writes 32-bit words
        self._fresh = False

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Tell for each token whether it may come next; at least one may.

        Tokens that end the turn are among them if and only if the answer is complete.

        Raises:
            EngineError: the grammar is too ambiguous to be followed, or has led to a place where no
                token of this vocabulary fits.
        """
        if not self._fresh:
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._raise_on_error()
            self._fresh = True
        mask = np.unpackbits(self._bits.view(np.uint8), count=self._vocab_size, bitorder="little")
        if not mask.any():
            raise EngineError("the grammar has led to a place where no token fits")
        return mask.view(np.bool_)

    def accept(self, token: int) -> None:
        """Go on with a token, which must be an allowed one.

        Raises:
            EngineError: as `allowed`.
        """
        self._fresh = False
        if not self._matcher.consume_token(token):
            self._raise_on_error()

    def _raise_on_error(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"the grammar cannot be followed: {_reason(self._matcher)}")


class _Tokens:
    """A vocabulary as llguidance's `TokenizerWrapper` wants it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = range(vocabulary.vocab_size)
        self.ends = [token for token in tokens if vocabulary.is_end_of_generation(token)]
        if not self.ends:
            raise InvalidValueError("the model has no token that ends an answer after a grammar")
        control = set(self.ends) | {token for token in tokens if vocabulary.is_control(token)}
        self.eos_token_id = self.ends[0]
        self.bos_token_id = None
        self.special_token_ids = sorted(control)
        self.tokens = [
            _CONTROL + b"<%d>" % token if token in control else vocabulary.piece(token)
            for token in tokens
        ]
        self._vocabulary = vocabulary
        self._greedy: Callable[[str], list[int]] | None = None

    def build(self) -> llguidance.LLTokenizer:
        """Make llguidance's own form of it."""
        wrapper = llguidance.TokenizerWrapper(self)
        tokenizer = llguidance.LLTokenizer(wrapper, eos_token=self.ends)
        self._greedy = tokenizer.greedy_tokenize
        return tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        """Split a text that a grammar leaves no choice about, as the model has learnt to see it.

        Called by llguidance, which takes the first token for the only one allowed; so a vocabulary
        that cannot write the text, or that puts a space before it, must not have its way.
        """
        data = text.encode() if isinstance(text, str) else text
        text = data.decode()
        tokens = self._vocabulary.tokenize(text, special=False)
        if self._greedy is not None and not self._spells(tokens, data):
            tokens = self._greedy(text)
        return tokens if self._spells(tokens, data) else []

    def _spells(self, tokens: list[int], data: bytes) -> bool:
        return b"".join(self.tokens[token] for token in tokens) == data


def _reason(matcher: llguidance.LLMatcher) -> str:
    """Return why llguidance gave up, in one line."""
    text = matcher.get_error()
    for beginning, reason in _REASONS.items():
        if beginning in text:
            return reason
    # A regular expression's error shows the place in lines of its own before it tells the reason.
    text = " ".join(text.partition("\n<")[0].rpartition("error: ")[2].split())
    text = text.partition(" 1 | start: ")[0]  # where a regex is put, which is none of the user's
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"
