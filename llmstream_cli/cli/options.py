"""The options that commands have, in groups, and what a shell offers for their values.

    class Loudness(NamedTuple):
        volume: Annotated[int, option("Sound", "--volume -v N", "How loud.")] = 5
        mute: bool = False

    @takes
    def play(song: str, loudness: Loudness) -> int: ...

Typer sees `play(*, song, volume=5, mute=False)`. Groups can be in groups. A class with a method
`parameters` is a group as well, whose options are what that returns. Groups are named tuples: they
are made sooner than dataclasses, for which every answer would wait.
"""

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, get_type_hints

import typer

from llmstream_cli.errors import LLMStreamError
from llmstream_cli.files import exists
from llmstream_cli.sampling import CONSTRAINTS, PARAMETERS, Parameter, SamplingParams


def takes(command: Callable[..., int]) -> Callable[..., int]:
    """Return a command with all options of its groups in its signature, which Typer reads."""
    own = inspect.signature(command).parameters.values()
    shown = [parameter for one in own for parameter in _flat(one)]

    @functools.wraps(command)
    def run(**values: Any) -> int:
        return command(**{one.name: _value(one, values) for one in own})

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _flat(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    parts = _parts(parameter.annotation)
    if parts is None:
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    for part in parts or ():
        yield from _flat(part)


def _value(parameter: inspect.Parameter, values: Mapping[str, Any]) -> Any:
    parts = _parts(parameter.annotation)
    if parts is None:
        return values[parameter.name]
    return parameter.annotation(**{part.name: _value(part, values) for part in parts})


@functools.cache
def _parts(group: Any) -> list[inspect.Parameter] | None:
    """Return the fields of a group; None of what is no group."""
    if hasattr(group, "parameters"):
        return list(group.parameters())
    if not hasattr(group, "_fields"):
        return None
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=group._field_defaults.get(name, inspect.Parameter.empty),
            annotation=hint,
        )
        for name, hint in get_type_hints(group, include_extras=True).items()
    ]


def option(
    panel: str,
    usage: str,
    help: str,  # noqa: A002  (Typer's word)
    *,
    default: bool | str = False,
    complete: Callable[[], list[str]] | None = None,
) -> Any:
    """Return an option as `--help` has it.

    Args:
        panel: its heading.
        usage: the flags, then what stands for the value, as in `--model -m FILE|REPO`.
        help: what it does.
        default: shows the default, or says what it is.
        complete: returns what a shell offers for the value.
    """
    words = usage.split()
    flags = [word for word in words if word.startswith("-")]
    return typer.Option(
        *flags,
        metavar=words[-1] if len(words) > len(flags) else None,
        help=help,
        rich_help_panel=panel,
        show_default=default,
        autocompletion=complete,
    )


def print_help(context: typer.Context) -> None:
    """Print the help of a group of commands where none of them is named."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


# ---- completion -----------------------------------------------------------------------------
# The shell calls these at a press of the Tab key, in a process of its own, and offers the names
# that begin as the word does, or files where none does. They import nothing slow, and leave out
# what cannot be read. Cached files have a slash before the file: bash takes a colon for the end of
# a word.


def preset_names() -> list[str]:
    """Return the names for `--features`."""
    from llmstream_cli.models.presets import PRESETS

    names = [*PRESETS]
    with contextlib.suppress(LLMStreamError):
        from llmstream_cli.cli.config.file import load_config

        names += load_config().presets
    return list(dict.fromkeys(names))


def model_names() -> list[str]:
    """Return the names for `--model`: presets, and what is in the Hugging Face cache."""
    return preset_names() + cached_names()


def cached_names() -> list[str]:
    """Return the files in the Hugging Face cache."""
    from llmstream_cli.models.hub_cache import list_cached

    with contextlib.suppress(OSError):
        names = (f"{model.repo}/{model.file}" for model in list_cached() if model.complete)
        return list(dict.fromkeys(names))
    return []


def context_names() -> list[str]:
    """Return the names for `--context`."""
    from llmstream_cli.cli.prompt import known_contexts
    from llmstream_cli.prompts.contexts import CONTEXTS

    with contextlib.suppress(LLMStreamError):
        return list(known_contexts())
    return list(CONTEXTS)


def template_names() -> list[str]:
    """Return the names for `--template`."""
    from llmstream_cli.prompts.formats import FORMATS

    return list(FORMATS)


def session_names() -> list[str]:
    """Return the names for `--session`, those that changed last first."""
    with contextlib.suppress(LLMStreamError):
        from llmstream_cli.cli.config.file import history_path, load_config
        from llmstream_cli.history.store import History

        path = history_path(load_config())
        if path is not None and exists(path):
            with History(path) as history:
                return [session.name for session in history.sessions() if session.name is not None]
    return []


# ---- shared by several commands -------------------------------------------------------------

_model = partial(option, "Model")
_machine = partial(option, "Machine")
_report = partial(option, "Report")
_server = partial(option, "Server")

Features = Annotated[
    str | None,
    _model(
        "--features -f NAME",
        "A model by its name; see `llmstream models list`.",
        complete=preset_names,
    ),
]
Model = Annotated[
    str | None,
    _model(
        "--model -m FILE|REPO",
        "A model by its .gguf file, or on the Hugging Face Hub: user/repo, user/repo:Q8_0.",
        complete=model_names,
    ),
]
RepoFile = Annotated[str | None, _model("--file NAME", "The file of the repository in --model.")]
Tokenizer = Annotated[
    str | None,
    _model("--tokenizer FILE|REPO", "The tokenizer.json for weights in candle's layout."),
]
Template = Annotated[
    str | None,
    _model(
        "--template NAME|FILE",
        "How the conversation is written down: a prompt format by its name, or a Jinja file.",
        default="as the model's file says",
        complete=template_names,
    ),
]
ApiKey = Annotated[
    str | None,
    _server(
        "--api-key KEY",
        "The server's key; in the variable LLMSTREAM_API_KEY, other users do not see it.",
    ),
]
Threads = Annotated[
    int | None, _machine("--threads", "CPU threads.", default="one for each physical core")
]
GpuLayers = Annotated[
    int,
    _machine(
        "--gpu-layers",
        "Layers to keep on a GPU, where llama-cpp-python was built for one; -1 is all.",
        default=True,
    ),
]
Json = Annotated[bool, _report("--json", "Print one JSON object instead of a table.")]


# ---- sampling -------------------------------------------------------------------------------

SETTABLE = {name: row for name, row in PARAMETERS.items() if row.flags}


class SamplingOptions:
    """What the user said of sampling, by the names of `SamplingParams`; nothing for None."""

    def __init__(self, **said: Any) -> None:
        given = {name: value for name, value in said.items() if value not in (None, (), [])}
        self.said: Mapping[str, Any] = given | {
            name: tuple(value) for name, value in given.items() if isinstance(value, list)
        }
        self.over({})  # now: finding the model may take long

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingOptions) and self.said == other.said

    def __hash__(self) -> int:
        return hash(tuple(self.said.items()))

    def __repr__(self) -> str:
        return f"SamplingOptions({self.said})"

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Return the options; see `takes`."""
        return [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(row)
            )
            for name, row in SETTABLE.items()
        ]

    def changed(self, **said: Any) -> "SamplingOptions":
        """Return these with other values; None takes one back."""
        return SamplingOptions(**{**self.said, **said})

    def over(self, advised: Mapping[str, Any]) -> SamplingParams:
        """Return what the user said, else what the model's authors advise, else the defaults."""
        if self.said.keys() & CONSTRAINTS:  # a preset's stop strings are for free text
            advised = {name: value for name, value in advised.items() if name != "stop"}
        return SamplingParams(**{**advised, **self.said})

    @property
    def unset(self) -> tuple[str, ...]:
        """The parameters that the user did not set; see `GenerationRequest.unset`."""
        return tuple(name for name in PARAMETERS if name not in self.said)


def _annotation(row: Parameter) -> Any:
    """Return the type of an option, as Typer reads it."""
    several = row.default == ()
    kind: Any = list[row.kind] if several else row.kind  # type: ignore[name-defined]
    default: str | bool = row.unset or False
    if row.default not in (None, ()):
        default = f"{row.default}, or as its authors advise"
    option = typer.Option(
        *row.flags,
        metavar="TEXT" if row.kind is str else None,
        help=f"{row.help[0].upper()}{row.help[1:]}{'; may be repeated' if several else ''}.",
        rich_help_panel="Sampling",
        show_default=default,
    )
    return Annotated[kind | None, option]
