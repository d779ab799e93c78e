"""One answer: what has come of it, and the lines of `--stats`.

These are in the words of the service that this program descends from.
"""

import time
from collections.abc import Mapping
from typing import Any

from llmstream_cli.api import Chunk, FinishReason, ModelInfo, Usage
from llmstream_cli.cli.terminal import write_stderr
from llmstream_cli.history.records import Turn
from llmstream_cli.sampling import SamplingParams


class Answer:
    """What has come of an answer so far."""

    def __init__(self, started: float) -> None:
        self._started = started  # when whoever waits began to, by `time.perf_counter`
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.model = ""
        # From `started` to the first token, or to the first text where another server tells no
        # tokens.
        self.first_token_seconds: float | None = None
        self.finish_reason: FinishReason | None = None  # None while it has not ended
        self.usage: Usage | None = None
        self.calls: list[tuple[str, str]] = []  # of tools: names, and arguments as JSON

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def add(self, chunk: Chunk) -> None:
        if self.first_token_seconds is None and (chunk.token_ids or chunk.text or chunk.reasoning):
            self.first_token_seconds = time.perf_counter() - self._started
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        for delta in chunk.tool_calls:
            if delta.index == len(self.calls):
                self.calls.append((delta.name, ""))
            name, arguments = self.calls[delta.index]
            self.calls[delta.index] = name, arguments + delta.arguments
        self.finish_reason = chunk.finish_reason
        self.usage = chunk.usage

    def turns(self, question: str, model: str, sampling: Mapping[str, Any]) -> tuple[Turn, Turn]:
        """Return the question and what came of the answer, as they are kept."""
        return Turn(role="user", content=question), Turn(
            role="assistant",
            content=self.text,
            reasoning=self.reasoning,
            model=model or self.model,
            finish_reason=self.finish_reason or FinishReason.CANCELLED,
            usage=self.usage,
            sampling=sampling,
        )


def print_settings(info: ModelInfo, sampling: SamplingParams, retrieved_seconds: float) -> None:
    """Print what the answer will be made with, and how long the start took."""
    features = ", ".join(f"{name}: {str(on).lower()}" for name, on in info.cpu_features.items())
    write_stderr(
        f"{features}\n"
        f"temp: {sampling.temperature:.2f} repeat-penalty: {sampling.repeat_penalty:.2f} "
        f"repeat-last-n: {sampling.repeat_last_n}\n"
        f"retrieved the files in {duration(retrieved_seconds)}\n"
        f"loaded the model in {duration(info.load_seconds)}\n"
        f"context: {info.ctx_size} tokens of {info.ctx_train} that the model was trained with\n"
    )


def print_usage(answer: Answer) -> None:
    """Print what a complete answer cost, as far as that is known."""
    usage = answer.usage
    if usage is not None:
        speed = usage.prompt_tokens / usage.prompt_seconds if usage.prompt_seconds else 0.0
        write_stderr(
            f"{usage.prompt_tokens} prompt tokens ({speed:.2f} token/s)\n"
            f"{usage.completion_tokens} tokens generated ({usage.tokens_per_second:.2f} token/s)\n"
        )
    if answer.first_token_seconds is not None:
        write_stderr(f"time to first token: {duration(answer.first_token_seconds)}\n")
    write_stderr(f"finish reason: {answer.finish_reason}\n")


def duration(seconds: float) -> str:
    """Format a time in the unit that suits it: `102.103µs`, `558.235ms`, `1.234s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3f}{unit}"
    return f"{seconds * 1e6:.3f}µs"
