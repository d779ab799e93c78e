"""What the prompts need to know of a model's vocabulary."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that steers the model, such as `<|im_end|>`."""

    id: int
    text: str  # what it looks like in a rendered prompt
    strips_left: bool = False  # white space before it is dropped
    strips_right: bool = False  # white space after it is dropped


class Tokenizer(Protocol):
    """The vocabulary of a model; see `llmstream_cli.core.llama.Model` for each member."""

    @property
    def bos_token(self) -> str: ...
    @property
    def eos_token(self) -> str: ...
    @property
    def leading_token(self) -> int | None: ...
    def tokenize(self, text: str, *, special: bool) -> list[int]: ...
    def is_control(self, token: int) -> bool: ...
    def control_tokens(self) -> tuple[ControlToken, ...]: ...
