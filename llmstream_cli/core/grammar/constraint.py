"""Grammars and JSON schemas as sets of tokens that may come next.

llguidance compiles both and tells, after each token, which others can follow. It neither raises nor
aborts, and it is given limits: a grammar that needs too much work is refused when it is compiled,
or ends its own request.

A vocabulary of 49k tokens takes 23 MB, and 0.3 s to read; both come with the first request that has
a grammar. So does the import of llguidance, for which reason no other module imports this one
before it has to.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import llguidance
import numpy as np
import numpy.typing as npt

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.grammar.gbnf import gbnf_to_lark
from llmstream_cli.core.grammar.json_schema import ReadSchema, read_schema
from llmstream_cli.core.grammar.schema_keywords import schema_error
from llmstream_cli.errors import EngineError, InvalidValueError, SchemaError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# llguidance takes a token that begins with this byte, which no UTF-8 text contains, for a control
# token: nothing that a grammar describes can match it.
_CONTROL = b"\xff"

# Between two parts of a JSON text: nothing, a space, or a new line and its indentation. Models
# write worse where they may not break lines as they are used to, and where white space is free a
# small one can go on with it for ever.
_JSON_STYLE: "JsonCompileOptions" = {
    "whitespace_pattern": r" |\n[ \t]{0,20}",
    # `read_schema` has found out whether a value can fulfil two of them, and says so.
    "coerce_one_of": True,
}

# The tokens of JSON in any order, among them what a schema allows; but a number has no more digits
# than double precision needs, and lies within it. llguidance's own can go on for ever.
# The last decimal is not 0: else a number that has to be above a bound could have no end.
_DECIMALS = r"(?:\.(?:[0-9]{1,19}|[0-9]{19}[1-9]))?"
_NUMBER = (
    rf"-?(?:(?:[0-9]{{1,18}}|[1-8][0-9]{{18}}){_DECIMALS}(?:[eE](?:-[0-9]{{1,3}}|\+?[0-9]{{1,2}}))?"
    rf"|[0-9]{_DECIMALS}[eE]\+?(?:[12][0-9]{{2}}|30[0-7]))"
)
_STRING = r'"(?:[^"\\\x00-\x1F]|\\.)*"'
_JSON_TOKENS = rf"(?:(?:{_NUMBER})?(?:{_STRING}|true|false|null|[\[\]{{}}:, \n\t]))*(?:{_NUMBER})?"

# Of calls of tools: any text, but no number without an end.
_DIGITS = "([0-9]{0,39}|[0-9]{39}[1-9])"
_NO_LONG_NUMBER = f"/(?s:{_DIGITS}([^0-9]{_DIGITS})*)/"

# What llguidance says in the words of its own parser and options.
_REASONS = {
    "Too many items": "it can be read in too many ways at once",
    "Current row has": "it can be read in too many ways at once",
    "NoExtension": "no token of this vocabulary fits",
    "not disjoint": "no name may match two patterns of patternProperties",
    "min/maxProperties": "minProperties and maxProperties need all properties to be required",
}
_UNFULFILLED = "no value fulfils it: "
_MAX_REASON = 200  # characters
_MAX_SEARCH_SECONDS = 1.0  # for the place of an error


class Vocabulary(Protocol):
    """What is needed of a model's vocabulary; see `llmstream_cli.core.llama.Model`."""

    vocab_size: int

    def piece(self, token: int) -> bytes: ...
    def is_control(self, token: int) -> bool: ...
    def is_end_of_generation(self, token: int) -> bool: ...
    def tokenize(self, text: str, *, special: bool) -> list[int]: ...


class GrammarCompiler:
    """Compiles grammars for one model. Every method may be called from any thread."""

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
        if params.json_schema is not None:
            read = read_schema(params.json_schema)
            matchers = [self._compile(_json_grammar(read.schema)), self._compile(_JSON_GRAMMAR)]
            if refused := matchers[0].get_error():
                raise schema_error(*_find_error(read, refused))
            return self._begin(matchers, "JSON schema")
        if params.regex is not None:
            field, grammar = "regex", llguidance.LLMatcher.grammar_from_regex(params.regex)
        else:
            assert params.grammar is not None
            lark = gbnf_to_lark(params.grammar)
            field, grammar = "grammar", llguidance.LLMatcher.grammar_from_lark(lark)
        matcher = self._compile(grammar)
        if refused := matcher.get_error():
            raise InvalidValueError(f"{field}: {_reason(refused)}", field)
        return self._begin([matcher], field)

    def compile_calls(
        self,
        grammar: str,
        control_tokens: Sequence[int],
        *,
        begins_later: bool,
        answer_schema: str | None = None,
    ) -> "Constraint":
        """Compile the grammar of calls of tools.

        Args:
            grammar: llguidance's dialect of Lark.
            control_tokens: those that stand in it.
            begins_later: whether it holds from `Constraint.begin` on, not from the first token.
            answer_schema: what an answer without calls has to fulfil; None where there must be
                calls, or the grammar begins with them.

        Raises:
            InvalidValueError: the schemas of the tools are too complex together.
        """
        if answer_schema is not None:
            schema = json.dumps(in_style(read_schema(answer_schema).schema))
            grammar = (
                grammar.replace("start: ", "start: answer | ", 1) + f"\nanswer: %json {schema}"
            )
        control = " | ".join(f"<[{token}]>" for token in control_tokens)
        parts = f"({control}) TEXT?" if control else ""
        bounded = f"start: TEXT?{f' ({parts})*' if parts else ''}\nTEXT: {_NO_LONG_NUMBER}"
        matchers = [self._compile(one) for one in (grammar, bounded)]
        for refused in filter(None, (matcher.get_error() for matcher in matchers)):
            raise InvalidValueError(f"tools: {_reason(refused)}", "tools")
        return self._begin(matchers, "tools", begins_later=begins_later)

    def _begin(
        self, matchers: Sequence[llguidance.LLMatcher], what: str, *, begins_later: bool = False
    ) -> "Constraint":
        greedy = self.read_vocabulary().greedy_tokenize
        constraint = Constraint(matchers, self._vocabulary.vocab_size, greedy)
        try:
            constraint.allowed()
        except EngineError as error:
            told = f"{what}: no answer can begin: {error}"
            raise (
                SchemaError(told) if "schema" in what else InvalidValueError(told, what)
            ) from error
        constraint.is_active = not begins_later
        return constraint

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        limits = llguidance.LLParserLimits(verbose_errors=False)
        return llguidance.LLMatcher(self.read_vocabulary(), grammar, log_level=0, limits=limits)

    def read_vocabulary(self) -> llguidance.LLTokenizer:
        """Do what the first grammar would wait for.

        Raises:
            InvalidValueError: there can be no grammars with this vocabulary.
        """
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _Tokens(self._vocabulary).build()
            return self._tokenizer


class Constraint:
    """Follows one answer through grammars that all hold. Not thread-safe.

    While it is not active, every token may come. `tokenize` splits a text into any tokens.
    """

    def __init__(
        self,
        matchers: Sequence[llguidance.LLMatcher],
        vocab_size: int,
        tokenize: Callable[[str], list[int]],
    ) -> None:
        self._matchers = matchers
        self._vocab_size = vocab_size
        self._tokenize = tokenize
        self.is_active = True
        # llguidance writes 32-bit words.
        self._bits = np.zeros((len(matchers), (vocab_size + 31) // 32), np.int32)
        self._words: npt.NDArray[np.int32] = self._bits[0]  # of all matchers together
        self._fresh = False

    def begin(self, text: str) -> None:
        """Hold from here on, after a text that has come already.

        It stays inactive if the grammars do not begin so.
        """
        tokens = self._tokenize(text)
        for matcher in self._matchers:
            matcher.reset()
        self._fresh = False
        self.is_active = all(
            matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens)
            for matcher in self._matchers
        )

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Tell for each token whether it may come next; at least one may.

        Tokens that end the turn are among them if and only if the answer is complete.

        Raises:
            EngineError: the grammar is too ambiguous to be followed, or has led to a place where no
                token of this vocabulary fits.
        """
        if not self.is_active:
            return np.ones(self._vocab_size, np.bool_)
        if not self._fresh:
            for matcher, bits in zip(self._matchers, self._bits, strict=True):
                matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
                _raise_on_error(matcher)
            self._words = np.bitwise_and.reduce(self._bits)
            self._fresh = True
        mask = np.unpackbits(self._words.view(np.uint8), count=self._vocab_size, bitorder="little")
        if not mask.any():
            raise EngineError("the grammar has led to a place where no token fits")
        return mask.view(np.bool_)

    def bits(self) -> bytes:
        """Return `allowed` as a bit for each token, the lowest of a byte first; empty is all."""
        if not self.is_active:
            return b""
        self.allowed()
        bits: bytes = self._words.tobytes()
        return bits

    def is_ready(self, seconds: float) -> bool:
        """Whether `allowed` need not wait for another process, as it may elsewhere."""
        return True

    def accept(self, token: int) -> None:
        """Go on with a token, which must be an allowed one.

        Raises:
            EngineError: as `allowed`.
        """
        self._fresh = False
        for matcher in self._matchers if self.is_active else ():
            if not matcher.consume_token(token):
                _raise_on_error(matcher)


def _raise_on_error(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise EngineError(f"the grammar cannot be followed: {_reason(matcher.get_error())}")


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


def in_style(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema for `%json`, to be followed as one for a whole answer is."""
    return {**schema, "x-guidance": _JSON_STYLE}


def _json_grammar(schema: Mapping[str, Any]) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(dict(schema), overrides=_JSON_STYLE)


_JSON_GRAMMAR = llguidance.LLMatcher.grammar_from_regex(_JSON_TOKENS)


def _find_error(read: ReadSchema, error: str) -> tuple[str, str]:
    """Return the reason why llguidance refuses a schema, and the place of the innermost it is for.

    llguidance does not tell. So each schema is compiled alone, beside what it refers to.
    """
    root = json.loads(json.dumps(read.schema).replace('"$ref": "#', '"$ref": "#/x-root'))
    reason, where, deadline = _reason(error), "", time.monotonic() + _MAX_SEARCH_SECONDS
    for place in sorted(read.places, key=lambda place: not place.startswith("/$defs/")):
        if not place.startswith(f"{where}/") or time.monotonic() > deadline:
            continue
        grammar = _json_grammar({"$ref": f"#/x-root{quote(place)}", "x-root": root})
        _, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
        found = _reason(messages[0]) if messages else ""
        if found == reason or (_UNFULFILLED in found and _UNFULFILLED in reason):
            reason, where = found, place
    return reason, where


def _reason(text: str) -> str:
    """Return why llguidance gave up, in one line."""
    for beginning, reason in _REASONS.items():
        if beginning in text:
            return reason
    text = text.replace("Unsatisfiable schema: ", _UNFULFILLED)
    # A regular expression's error shows the place in lines of its own before it tells the reason.
    text = " ".join(
        text.partition("\n<")[0].partition("\n  while")[0].rpartition("error: ")[2].split()
    )
    text = text.partition(" 1 | start: ")[0]  # where a regex is put, which is none of the user's
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"
