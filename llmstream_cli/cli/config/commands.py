"""The commands of `llmstream config` and their options."""

import sys

import typer

from llmstream_cli.cli import options
from llmstream_cli.cli.config.settings import settings_commands

app = typer.Typer()


@app.callback(
    invoke_without_command=True,
    help="What is kept in the configuration file and in the environment.",
)
def top(context: typer.Context) -> None:
    """Without a command, help."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command(
    help="Print each setting, its value, and where it comes from."
    "\n\nThat is a variable of the environment, a line of the file, the preset's authors, or the "
    "default; an option on the command line goes over all of them. Keys are not printed."
)
def show(context: typer.Context, json: options.Json = False) -> int:
    """Turn the options into settings, and show."""
    from llmstream_cli.cli.config.show import Show

    return Show(commands=settings_commands(context), json=json).run()


@app.command(help="Print where the configuration file is, or would be.")
def path() -> int:
    """Print the path."""
    from llmstream_cli.cli.config.edit import print_path

    return print_path()


@app.command(
    help="Open the configuration file in $VISUAL or $EDITOR, and check it afterwards."
    "\n\nWhere there is none, one is made, with every line of it a comment."
)
def edit(context: typer.Context) -> int:
    """Edit the file."""
    from llmstream_cli.cli.config.edit import Edit

    return Edit(commands=settings_commands(context)).run()
