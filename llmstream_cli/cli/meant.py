"""What a command line that does not exist was meant to be: for who comes from other programs."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from llmstream_cli.errors import did_you_mean

_COMMANDS: Mapping[tuple[str, ...], str] = {
    ("generate",): "ask",
    ("complete",): "ask",
    ("prompt",): "ask",
    ("server",): "serve",
    ("start",): "serve",
    ("pull",): "models pull",
    ("download",): "models pull",
    ("list",): "models list",
    ("ls",): "models list",
    ("ps",): "models list",
    ("rm",): "models remove",
    ("remove",): "models remove",
    ("delete",): "models remove",
    ("show",): "models show",
    ("search",): "history search",
    ("version",): "--version",
    ("help",): "--help",
    ("models", "ls"): "models list",
    ("models", "rm"): "models remove",
    ("models", "delete"): "models remove",
    ("models", "download"): "models pull",
    ("history", "ls"): "history list",
    ("history", "rm"): "history delete",
    ("history", "remove"): "history delete",
}
_PROMPTS = {"-p", "--prompt"}


def meant(arguments: Sequence[str], commands: Mapping[str, Any]) -> str | None:
    """Return the command line that may have been meant; None where nothing suggests one.

    Args:
        arguments: those that were refused.
        commands: Click's commands by their names.
    """
    for length in (2, 1):
        known = _COMMANDS.get(tuple(arguments[:length]))
        if known is not None:
            return _line(*known.split(), *arguments[length:])
    match arguments:
        case ["run"]:
            return _line("chat")
        case ["run", model]:
            return _line("chat", "-m", model)
        case ["run", model, *question]:
            return _line("ask", "-m", model, *question)
        case ["ask", *words] if not _PROMPTS.isdisjoint(words):
            return _line("ask", *_without_prompt(words))
        case ["serve", *words] if "-p" in words:
            return _line("serve", *("--port" if word == "-p" else word for word in words))
        case [first, *_] if first.startswith("-"):
            option = first.partition("=")[0]
            if option in _options(commands["ask"]) | _PROMPTS:
                return _line("ask", *_without_prompt(arguments))
            return _line("serve", *arguments) if option in _options(commands["serve"]) else None
        case [first, *_] if first not in commands and not did_you_mean(first, commands, ""):
            return _line("ask", *arguments)
    return None


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def _without_prompt(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _PROMPTS]


def _line(*words: str) -> str:
    return " ".join(("llmstream", *map(_quoted, words)))


def _quoted(word: str) -> str:
    plain = shlex.quote(word)
    return f'"{word}"' if plain == f"'{word}'" and not set(word) & set('"$`!\\') else plain
