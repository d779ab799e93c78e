"""The families' prompt formats, for models whose file has no chat template.

Each is the way in which the authors of a family write a conversation down, in a file of Jinja in
the dialect of `ChatTemplate`: turns, white space and the end of a turn as they were trained with.

Families with turn markers of their own have control tokens, which no message can forge. Those that
mark turns with words (`USER:`, `### Instruction:`) have none; there a stop string ends the turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmstream_cli.errors import InvalidValueError, did_you_mean

_FOLDER = Path(__file__).with_name("templates")

# The formats, and the texts that end the model's turn where no control token does.
FORMATS: Mapping[str, tuple[str, ...]] = {
    "chatml": (),
    "llama2": (),
    "llama3": (),
    "mistral": (),
    "gemma": (),
    "phi3": (),
    "phi4": (),
    "phi4-mini": (),
    "zephyr": (),
    "granite": (),
    "vicuna": (),
    "puffin": ("\nUSER:",),
    # Of two that end together the longer wins, so that no empty line is left behind.
    "alpaca": ("\n\n### Instruction:", "\n### Instruction:"),
    "instruct": ("\nInstruct:",),
}


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A way to write a conversation down: one of `FORMATS`, or a file's, by the file's name."""

    name: str
    template: str  # Jinja source, see `ChatTemplate`
    stop: tuple[str, ...] = ()  # texts that end the model's turn


def find_format(name: str) -> ChatFormat:
    """Return the format of that name, in upper or lower case.

    Raises:
        InvalidValueError: there is none; the message names a near miss and all there are.
    """
    known = name.lower()
    if known not in FORMATS:
        hint = did_you_mean(name, FORMATS)
        raise InvalidValueError(f"no prompt format is called {name!r}; {hint}")
    return ChatFormat(known, (_FOLDER / f"{known}.jinja").read_text("utf-8"), FORMATS[known])
