"""A vocabulary of bytes and control tokens, and grammars over it."""

from collections.abc import Iterable, Iterator

import llguidance

from llmstream_cli.prompts.tokenizer import ControlToken

_BYTES = 256


class ByteVocabulary:
    """Each byte is a token, and so is each control token, from 256 on."""

    bos_token = eos_token = ""
    leading_token = None

    def __init__(self, *control: str) -> None:
        self._control = tuple(
            ControlToken(token, text) for token, text in enumerate(control, _BYTES)
        )

    def control_tokens(self) -> tuple[ControlToken, ...]:
        return self._control

    def is_control(self, token: int) -> bool:
        return token >= _BYTES

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        tokens: list[int] = []
        while text:
            control = [t for t in self._control if special and text.startswith(t.text)]
            if control:
                longest = max(control, key=lambda token: len(token.text))
                tokens.append(longest.id)
                text = text[len(longest.text) :]
            else:
                tokens.extend(text[0].encode())
                text = text[1:]
        return tokens


def write(vocabulary: ByteVocabulary, text: str) -> Iterator[tuple[int, bytes]]:
    """Yield each token of a text whose control tokens are meant, and its bytes."""
    for token in vocabulary.tokenize(text, special=True):
        yield token, b"" if vocabulary.is_control(token) else bytes([token])


class _Tokens:
    """The vocabulary as llguidance's `TokenizerWrapper` wants it."""

    bos_token_id = None

    def __init__(self, vocabulary: ByteVocabulary) -> None:
        control = len(vocabulary.control_tokens())
        self.eos_token_id = _BYTES + control
        self.special_token_ids = [*range(_BYTES, _BYTES + control + 1)]
        self.tokens = [bytes([byte]) for byte in range(_BYTES)]
        self.tokens += [b"\xff<%d>" % token for token in self.special_token_ids]

    def __call__(self, text: bytes | str) -> list[int]:
        return [*(text.encode() if isinstance(text, str) else text)]


def accepts(vocabulary: ByteVocabulary, grammar: str, tokens: Iterable[int]) -> bool:
    """Tell whether a grammar allows exactly these tokens."""
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(vocabulary)))
    lark = llguidance.LLMatcher.grammar_from_lark(grammar)
    matcher = llguidance.LLMatcher(tokenizer, lark, log_level=0)
    assert not matcher.get_error(), matcher.get_error()
    return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()
