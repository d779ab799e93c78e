"""The commands of `llmstream models`."""

from typing import Annotated

import typer

from llmstream_cli.cli import options

app = typer.Typer()

_FORMS = "A preset, user/repo, user/repo:QUANT or user/repo/FILE.gguf."


@app.callback(
    invoke_without_command=True,
    help="Models: which there are, which fit this machine, which are here.",
)
def top(context: typer.Context) -> None:
    """Without a command, help; with one, the user's own names of models."""
    options.print_help(context)
    if context.invoked_subcommand is None:
        return
    from llmstream_cli.cli.config.file import load_config
    from llmstream_cli.cli.config.own_presets import register_own_presets

    register_own_presets(load_config())


@app.command(name="list", help="List the presets, and what is in the Hugging Face cache.")
def list_(json: options.Json = False) -> int:
    """List."""
    from llmstream_cli.cli.models.list_show import list_models

    return list_models(json=json)


@app.command(
    help="Download models, or their newer versions, and print where their files are."
    "\n\nAn interrupted download goes on where it was. Progress goes to standard error."
)
def pull(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help=_FORMS, autocompletion=options.model_names),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Download also what this machine's memory cannot hold.")
    ] = False,
) -> int:
    """Download."""
    from llmstream_cli.cli.models.pull_remove import pull_models

    return pull_models(names, force=force)


@app.command(help="Show what a model is; of one that is not here, what is known of it.")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help=f"{_FORMS} Or a file.", autocompletion=options.model_names
        ),
    ],
    json: options.Json = False,
) -> int:
    """Show."""
    from llmstream_cli.cli.models.list_show import show_model

    return show_model(name, json=json)


@app.command(
    help="Delete models from the cache, with their copies that were repacked for llama.cpp."
    "\n\nIt tells what it would delete, and asks."
)
def remove(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help=_FORMS, autocompletion=options.cached_names),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Delete."""
    from llmstream_cli.cli.models.pull_remove import remove_models

    return remove_models(names, yes=yes)
