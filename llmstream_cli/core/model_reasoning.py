"""What a model's reasoning stands between, and where in it an answer begins."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from llmstream_cli.core import harmony
from llmstream_cli.core.llama import Model
from llmstream_cli.core.reasoning import (
    KNOWN_TAGS,
    ReasoningSplitter,
    ReasoningTags,
    Splitter,
)

_TAIL_TOKENS = 16  # in which a tag at a prompt's end is found, whatever it is made of


class Begun(NamedTuple):
    """How an answer begins.

    Attributes:
        splitter: tells its reasoning from the answer; None where there can be none.
        closing: what the prompt has to go on with, so that there is no reasoning.
    """

    splitter: Splitter | None
    closing: str = ""


class ModelReasoning:
    """The reasoning of one model.

    Args:
        model: the model.
        template: source of its chat template, if it has one.
    """

    def __init__(self, model: Model, template: str | None) -> None:
        self._model = model
        self._marks: Mapping[int, bytes]
        self._tags: ReasoningTags | None = None
        self._is_harmony = all(map(self._token, harmony.REQUIRED))
        if self._is_harmony:
            marks = {self._token(text): mark.encode() for text, mark in harmony.MARKERS.items()}
            self._marks = {token: mark for token, mark in marks.items() if token is not None}
        else:
            self._tags = next((t for t in KNOWN_TAGS if self._has_tags(t, template)), None)
            self._marks = dict(self._control_tags())

    def __bool__(self) -> bool:
        return self._is_harmony or self._tags is not None

    def begin(self, prompt: list[int], *, closes: bool, continued: str | None = None) -> Begun:
        """Tell how the answer to a prompt begins.

        Args:
            prompt: token ids.
            closes: whether there shall be no reasoning.
            continued: the message that the answer goes on with, if it does.
        """
        if self._is_harmony:
            return self._begin_harmony(prompt, closes=closes and continued is None)
        if self._tags is None:
            return Begun(None)
        if continued is not None:
            splitter = ReasoningSplitter(self._tags, marks=self._marks)
            splitter.skip(continued)
            return Begun(splitter)
        inside = self._text(prompt[-_TAIL_TOKENS:]).rstrip().endswith(self._tags.opening)
        closing = f"\n{self._tags.closing}\n\n" if inside and closes else ""
        inside = inside and not closes
        return Begun(
            ReasoningSplitter(self._tags, begins_inside=inside, marks=self._marks), closing
        )

    def _begin_harmony(self, prompt: list[int], *, closes: bool) -> Begun:
        splitter = harmony.HarmonySplitter(self._marks)
        start = self._token("<|start|>")
        if start in prompt:
            turn = len(prompt) - prompt[::-1].index(start) - 1
            splitter.skip(self._text(prompt[turn:]))
        if closes and splitter.awaits_channel:
            splitter.skip(harmony.CHANNEL + "final" + harmony.MESSAGE)
            return Begun(splitter, harmony.OPENS_ANSWER)
        return Begun(splitter)

    def _text(self, tokens: list[int]) -> str:
        pieces = (self._marks.get(token) or self._model.piece(token) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def _token(self, text: str) -> int | None:
        tokens = self._model.tokenize(text, special=True)
        return tokens[0] if len(tokens) == 1 else None

    def _has_tags(self, tags: ReasoningTags, template: str | None) -> bool:
        """Tell whether the chat template names the tags, or the vocabulary has tokens for them."""
        named = tags.closing in (template or "")
        return named or all(map(self._token, (tags.opening, tags.closing)))

    def _control_tags(self) -> Iterator[tuple[int, bytes]]:
        """Yield the control tokens that tags begin with, which llama.cpp gives no text."""
        for tag in self._tags or ():
            first, *rest = self._model.tokenize(tag, special=True)
            if not self._model.piece(first):
                yield first, tag.encode().removesuffix(b"".join(map(self._model.piece, rest)))
