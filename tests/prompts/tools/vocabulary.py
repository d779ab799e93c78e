"""A vocabulary of bytes and control tokens, and grammars over it."""

from collections.abc import Sequence

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


def accepts(grammar: str, tokens: Sequence[int]) -> bool:
    """Tell whether a grammar allows exactly these tokens."""
    lark = llguidance.LLMatcher.grammar_from_lark(grammar)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), lark, log_level=0)
    assert not matcher.get_error(), matcher.get_error()
    return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()
