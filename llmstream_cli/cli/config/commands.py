"""`llmstream config`: its commands, and the editor for the configuration file."""

import os
import sys
from pathlib import Path

import typer

from llmstream_cli.cli import options
from llmstream_cli.cli.config.file import VARIABLE, config_path, load_config
from llmstream_cli.cli.config.settings import settings_commands
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.errors import ConfigError

_EXAMPLE = """\
# What llmstream shall do without being told each time. `llmstream config show` lists all settings.

[defaults]                        # options by their names, for every command
# features = "smollm2"
# temperature = 0.2

[ask]                             # for one command, over [defaults]; as well: chat, serve, bench
# stats = true

[contexts]                        # system messages for --context
# reviewer = "You review Python code. Name the worst problem first."

# [presets.my-model]              # a model for --features
# repo = "user/repository"
# file = "model-Q4_K_M.gguf"
# sampling = { temperature = 0.7, top_p = 0.8 }
"""

app = typer.Typer(
    callback=options.print_help,
    invoke_without_command=True,
    help="What is kept in the configuration file and in the environment.",
)


@app.command(
    name="show",
    help="Print each setting, its value, and where it comes from."
    "\n\nThat is a variable of the environment, a line of the file, the preset's authors, or the "
    "default; an option on the command line goes over all of them. Keys are not printed.",
)
def show_settings(context: typer.Context, json: options.Json = False) -> int:
    """Show."""
    from llmstream_cli.cli.config.show import show

    return show(settings_commands(context), json=json)


@app.command(name="path", help="Print where the configuration file is, or would be.")
def print_path() -> int:
    """Print the path."""
    sys.stdout.write(f"{without_controls(str(_path()))}\n")
    return 0


@app.command(
    help="Open the configuration file in $VISUAL or $EDITOR, and check it afterwards."
    "\n\nWhere there is none, one is made, with every line of it a comment."
)
def edit(context: typer.Context) -> int:
    """Edit the file, and check it."""
    from llmstream_cli.cli.ask.editor import run_editor
    from llmstream_cli.cli.config.show import checked_rows

    path = _path()
    if not path.exists():
        _make(path)
    run_editor(path)
    checked_rows(load_config(), settings_commands(context))
    write_stderr(f"{path} is in order\n")
    return 0


def _path() -> Path:
    path = config_path()
    if path is None:
        raise ConfigError(f"{VARIABLE} is set and empty: no configuration file is used")
    return path


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Private, as it may come to hold a key.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_EXAMPLE)
