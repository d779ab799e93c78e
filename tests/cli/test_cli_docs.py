"""docs/cli.md explains every command and option."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from llmstream_cli.cli import app as app_module

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def leaves(command: Any, *words: str) -> Iterator[tuple[str, Any]]:
    """Every command that is no mere group, with its words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(words), command
    for name, below in (inner or {}).items():
        yield from leaves(below, *words, name)


COMMANDS = dict(leaves(typer.main.get_command(app_module.app)))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_and_its_options_are_explained(words: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert words in page
    explained = set(re.findall(r"--[a-z][a-z-]+", page))
    for option in COMMANDS[words].params:
        if option.param_type_name == "option":
            assert explained & {*option.opts}, option.opts
