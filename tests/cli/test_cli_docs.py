"""docs/cli.md says of the command line what the command line says of itself."""

import re

import typer

from llmstream_cli.cli import app as app_module
from tests.cli_help import PAGE, commands, updated

TEXT = PAGE.read_text(encoding="utf-8")


def leaves(command: object, *words: str) -> list[str]:
    """The words of every command that is no mere group."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [" ".join(words)]
    return [leaf for name, below in inner.items() for leaf in leaves(below, *words, name)]


def test_every_command_has_its_help_in_the_page() -> None:
    assert sorted(commands(TEXT)) == sorted(leaves(typer.main.get_command(app_module.app)))


def test_the_help_in_the_page_is_that_of_the_commands() -> None:
    assert updated(TEXT) == TEXT, "run: python -m tests.cli_help"


def test_every_option_is_explained_outside_the_help() -> None:
    prose = re.sub(r"```text.*?```", "", TEXT, flags=re.DOTALL)
    explained = set(re.findall(r"--[a-z][a-z-]+", prose))
    root = typer.main.get_command(app_module.app)
    for words in commands(TEXT):
        command = root
        for word in words.split():
            command = command.commands[word]  # type: ignore[attr-defined]
        for option in command.params:
            if option.param_type_name == "option":
                assert explained & {*option.opts}, f"{words} {option.opts}"
