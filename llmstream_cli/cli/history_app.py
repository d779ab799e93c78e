"""The commands of `llmstream history` and their options."""

import sys
from typing import Annotated

import typer

from llmstream_cli.cli import options

app = typer.Typer()

Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", help="So many at most.", show_default="all", min=1),
]


@app.callback(
    invoke_without_command=True,
    help="Conversations that are kept on this machine: read, find and delete them.",
)
def top(context: typer.Context) -> None:
    """Without a command, help."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command(name="list", help="List the conversations, those that changed last first.")
def list_sessions(limit: Limit = None, json: options.Json = False) -> int:
    """Turn the options into settings, and list."""
    from llmstream_cli.cli.history import List

    return List(limit=limit, json=json).run()


@app.command(help="Print a conversation as markdown.")
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Its name or number.",
            show_default="the one that changed last",
        ),
    ] = None,
    json: options.Json = False,
) -> int:
    """Turn the options into settings, and show."""
    from llmstream_cli.cli.history import Show

    return Show(name=name, json=json).run()


@app.command(help="Find the questions and answers that have all the words, the latest first.")
def search(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORD...", help="Words or their beginnings, in any case.", show_default=False
        ),
    ],
    limit: Limit = None,
    json: options.Json = False,
) -> int:
    """Turn the options into settings, and search."""
    from llmstream_cli.cli.history import Search

    return Search(words=words, limit=limit, json=json).run()


@app.command(
    help="Delete conversations, for good."
    "\n\nIt tells how many, and asks. What is deleted is overwritten in the file."
)
def delete(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names or numbers.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Those that have not changed for so long: 12h, 30d, 8w, 1y.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Turn the options into settings, and delete."""
    from llmstream_cli.cli.history import Delete

    return Delete(names=names or [], everything=everything, older_than=older_than, yes=yes).run()
