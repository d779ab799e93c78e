"""One answer: what has come of it, and how it is received."""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from llmstream_cli.api import Chunk, Engine, FinishReason, GenerationRequest, Usage
from llmstream_cli.history.records import Turn


class Answer:
    """What has come of an answer so far.

    Args:
        started: when whoever waits began to, by `time.perf_counter`.

    Attributes:
        model: what the model goes by; "" while that is unknown.
        first_token_seconds: from then to the first token, or to the first text where another
            server tells no tokens; None before it.
        finish_reason: why it ended; None while it has not.
        usage: what it cost; None before its end, and where another server does not tell.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.model = ""
        self.first_token_seconds: float | None = None
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None

    @property
    def text(self) -> str:
        """The answer itself."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """What the model thought before it."""
        return "".join(self._reasoning)

    @property
    def tokens_per_second(self) -> float:
        """How fast it came; 0.0 where that is unknown."""
        return 0.0 if self.usage is None else self.usage.tokens_per_second

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        if self.first_token_seconds is None and (chunk.token_ids or chunk.text or chunk.reasoning):
            self.first_token_seconds = time.perf_counter() - self._started
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        self.finish_reason = chunk.finish_reason
        self.usage = chunk.usage

    def turns(self, question: str, model: str, sampling: Mapping[str, Any]) -> tuple[Turn, Turn]:
        """Return the question and what came of the answer, as they are kept.

        Args:
            question: that was asked.
            model: what names the model; "" takes `Answer.model`.
            sampling: what the user set of it.
        """
        return Turn(role="user", content=question), Turn(
            role="assistant",
            content=self.text,
            reasoning=self.reasoning,
            model=model or self.model,
            finish_reason=self.finish_reason or FinishReason.CANCELLED,
            usage=self.usage,
            sampling=sampling,
        )


async def receive(
    engine: Engine, request: GenerationRequest, answer: Answer, show: Callable[[Chunk], object]
) -> None:
    """Generate, and pass on each chunk as it comes; what has come is in `answer` at any time.

    Args:
        engine: generates.
        request: what to generate.
        answer: takes each chunk, before it is shown.
        show: takes it then.

    Raises:
        LLMStreamError: see `Engine.generate`, and whatever `show` raises.
    """
    async with contextlib.aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            answer.add(chunk)
            show(chunk)
