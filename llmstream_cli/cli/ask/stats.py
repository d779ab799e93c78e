"""The lines of `--stats`, in the words of the service that this program descends from."""

from typing import TYPE_CHECKING

from llmstream_cli.api import ModelInfo
from llmstream_cli.cli.terminal import complain
from llmstream_cli.sampling import SamplingParams

if TYPE_CHECKING:
    from llmstream_cli.cli.ask.view import Answer


def print_settings(info: ModelInfo, sampling: SamplingParams, retrieved_seconds: float) -> None:
    """Print what the answer will be made with, and how long the start took."""
    features = ", ".join(f"{name}: {str(on).lower()}" for name, on in info.cpu_features.items())
    complain(
        f"{features}\n"
        f"temp: {sampling.temperature:.2f} repeat-penalty: {sampling.repeat_penalty:.2f} "
        f"repeat-last-n: {sampling.repeat_last_n}\n"
        f"retrieved the files in {duration(retrieved_seconds)}\n"
        f"loaded the model in {duration(info.load_seconds)}\n"
        f"context: {info.ctx_size} tokens of {info.ctx_train} that the model was trained with\n"
    )


def print_usage(answer: "Answer") -> None:
    """Print what a complete answer cost, as far as that is known."""
    usage = answer.usage
    if usage is not None:
        speed = usage.prompt_tokens / usage.prompt_seconds if usage.prompt_seconds else 0.0
        complain(
            f"{usage.prompt_tokens} prompt tokens ({speed:.2f} token/s)\n"
            f"{usage.completion_tokens} tokens generated ({usage.tokens_per_second:.2f} token/s)\n"
        )
    if answer.first_token_seconds is not None:
        complain(f"time to first token: {duration(answer.first_token_seconds)}\n")
    complain(f"finish reason: {answer.finish_reason}\n")


def duration(seconds: float) -> str:
    """Format a time in the unit that suits it: `102.103µs`, `558.235ms`, `1.234s`."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3f}{unit}"
    return f"{seconds * 1e6:.3f}µs"
