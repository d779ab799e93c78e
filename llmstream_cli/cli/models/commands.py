"""The commands of `llmstream models` and their options."""

import sys
from typing import Annotated

import typer

from llmstream_cli.cli import options

app = typer.Typer()

_NAME_FORMS = "A preset, user/repo, user/repo:QUANT or user/repo/FILE.gguf."

Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help=_NAME_FORMS,
        show_default=False,
        autocompletion=options.model_names,
    ),
]
CachedNames = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help=_NAME_FORMS,
        show_default=False,
        autocompletion=options.cached_names,
    ),
]


@app.callback(
    invoke_without_command=True,
    help="Models: which there are, which fit this machine, which are here.",
)
def top(context: typer.Context) -> None:
    """Without a command, help; with one, the user's own names of models."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")
        return
    from llmstream_cli.cli.config.own_presets import register_own_presets
    from llmstream_cli.config import load_config

    register_own_presets(load_config())


@app.command(name="list", help="List the presets, and what is in the Hugging Face cache.")
def list_models(json: options.Json = False) -> int:
    """Turn the options into settings, and list."""
    from llmstream_cli.cli.models.listing import List

    return List(json=json).run()


@app.command(
    help="Download models, or their newer versions, and print where their files are."
    "\n\nAn interrupted download goes on where it was. Progress goes to standard error."
)
def pull(
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", help="Download also what this machine's memory cannot hold.")
    ] = False,
) -> int:
    """Turn the options into settings, and download."""
    from llmstream_cli.cli.models.pull_remove import Pull

    return Pull(names=names, force=force).run()


@app.command(help="Show what a model is; of one that is not here, what is known of it.")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help=f"{_NAME_FORMS} Or a file.",
            show_default=False,
            autocompletion=options.model_names,
        ),
    ],
    json: options.Json = False,
) -> int:
    """Turn the options into settings, and show."""
    from llmstream_cli.cli.models.show import Show

    return Show(name=name, json=json).run()


@app.command(
    help="Delete models from the cache, with their copies that were repacked for llama.cpp."
    "\n\nIt tells what it would delete, and asks."
)
def remove(
    names: CachedNames,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Turn the options into settings, and delete."""
    from llmstream_cli.cli.models.pull_remove import Remove

    return Remove(names=names, yes=yes).run()
