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
    words: Sequence[str] = ()
    match arguments:
        case ["run", *rest]:
            words = _run(rest)
        case ["ask", *rest] if not _PROMPTS.isdisjoint(rest):
            words = ["ask", *_without_prompt(rest)]
        case ["serve", *rest]:
            words = ["serve", *("--port" if word == "-p" else word for word in rest)]
        case [first, *rest] if first.startswith("-"):
            words = _with_command(first.partition("=")[0], arguments, commands)
        case [first, *rest]:
            known = _COMMANDS.get((first, *rest[:1])) or _COMMANDS.get((first,))
            if known is not None:
                is_pair = (first, *rest[:1]) in _COMMANDS
                words = [*known.split(), *(rest[1:] if is_pair else rest)]
            elif first not in commands and not did_you_mean(first, commands, ""):
                words = ["ask", *arguments]
    return None if words in ((), arguments) else " ".join(("llmstream", *map(_quoted, words)))


def _run(rest: Sequence[str]) -> Sequence[str]:
    """Return what is elsewhere called `run MODEL QUESTION`."""
    model, question = rest[:1], rest[1:]
    return ["ask" if question else "chat", *(["-m", *model] if model else []), *question]


def _with_command(
    option: str, arguments: Sequence[str], commands: Mapping[str, Any]
) -> Sequence[str]:
    """Put the command before an option that is not one of the program itself."""
    if option in _options(commands["ask"]) | _PROMPTS:
        return ["ask", *_without_prompt(arguments)]
    return ["serve", *arguments] if option in _options(commands["serve"]) else ()


def _options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def _without_prompt(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _PROMPTS]


def _quoted(word: str) -> str:
    plain = shlex.quote(word)
    return f'"{word}"' if plain == f"'{word}'" and not set(word) & set('"$`!\\') else plain
