"""How one model writes its reasoning: by tags, or as gpt-oss does."""

from collections.abc import Iterator, Mapping

from llmstream_cli.core import reasoning
from llmstream_cli.core.llama import Model
from llmstream_cli.core.reasoning import (
    HarmonySplitter,
    ReasoningSplitter,
    ReasoningTags,
    Splitter,
)
from llmstream_cli.prompts.messages import ToolChoice

_TAIL_TOKENS = 16  # in which a tag at a prompt's end is found, whatever it is made of


class ModelReasoning:
    """How one model writes its reasoning; false where it has none."""

    def __init__(self, model: Model, template: str | None) -> None:
        self._model = model
        self._marks: Mapping[int, bytes]
        self._tags: ReasoningTags | None = None
        self._is_harmony = all(map(self._token, reasoning.REQUIRED_MARKERS))
        if self._is_harmony:
            marks = {self._token(text): mark.encode() for text, mark in reasoning.MARKERS.items()}
            self._marks = {token: mark for token, mark in marks.items() if token is not None}
        else:
            self._tags = next(
                (t for t in reasoning.KNOWN_TAGS if self._has_tags(t, template)), None
            )
            self._marks = dict(self._control_tags())

    def __bool__(self) -> bool:
        return self._is_harmony or self._tags is not None

    def begin(
        self, prompt: list[int], *, closes: bool, continued: str | None, choice: ToolChoice | None
    ) -> tuple[Splitter | None, str]:
        """Return what splits the answer to a prompt, which may continue a message.

        With `closes` there shall be no reasoning: so the prompt has to go on with the text.
        """
        if self._is_harmony:
            must_call = choice is not None and choice.mode == "required"
            closes = closes and continued is None and not must_call
            return self._begin_harmony(prompt, closes=closes, has_tools=choice is not None)
        if self._tags is None:
            return None, ""
        if continued is not None:
            splitter = ReasoningSplitter(self._tags, marks=self._marks)
            splitter.skip(continued)
            return splitter, ""
        inside = self._text(prompt[-_TAIL_TOKENS:]).rstrip().endswith(self._tags.opening)
        closing = f"\n{self._tags.closing}\n\n" if inside and closes else ""
        inside = inside and not closes
        return ReasoningSplitter(self._tags, begins_inside=inside, marks=self._marks), closing

    def _begin_harmony(
        self, prompt: list[int], *, closes: bool, has_tools: bool
    ) -> tuple[Splitter, str]:
        splitter = HarmonySplitter(self._marks, has_tools=has_tools)
        start = self._token("<|start|>")
        if start in prompt:
            turn = len(prompt) - prompt[::-1].index(start) - 1
            splitter.skip(self._text(prompt[turn:]))
        if closes and splitter.awaits_channel:
            splitter.skip(reasoning.CHANNEL + "final" + reasoning.MESSAGE)
            return splitter, reasoning.OPENS_ANSWER
        return splitter, ""

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
