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
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.errors import LLMStreamError
from llmstream_cli.files import exists


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
        from llmstream_cli.config import load_config

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
        from llmstream_cli.config import history_path, load_config
        from llmstream_cli.history.store import History

        path = history_path(load_config())
        if path is not None and exists(path):
            with History(path) as history:
                return [session.name for session in history.sessions() if session.name is not None]
    return []


# ---- shared by several commands -------------------------------------------------------------

_model = partial(option, "Model")
_prompt = partial(option, "Prompt")
_machine = partial(option, "Machine")
_report = partial(option, "Report")
_history = partial(option, "History")
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


# ---- ask and chat ---------------------------------------------------------------------------


class EngineOptions(NamedTuple):
    """The model that is asked, here or on another server."""

    features: Features = None
    model: Model = None
    file: RepoFile = None
    tokenizer: Tokenizer = None
    template: Template = None
    url: Annotated[
        str | None,
        _server(
            "--url URL",
            "Ask this server instead, a running `llmstream serve`; no model is loaded here.",
        ),
    ] = None
    api_key: ApiKey = None
    ctx_size: Annotated[
        int | None,
        _machine(
            "--ctx-size",
            "Tokens that question and answer may have together.",
            default="what the model was trained with, as far as memory allows",
        ),
    ] = None
    threads: Threads = None
    gpu_layers: GpuLayers = 0


class RecordOptions(NamedTuple):
    """The conversation that goes on, and whether it is kept."""

    continue_: Annotated[
        bool, _history("--continue -c", "Go on with the conversation that was held last.")
    ] = False
    session: Annotated[
        str | None,
        _history(
            "--session NAME",
            "Go on with the conversation of that name, or begin it; see `llmstream history list`.",
            complete=session_names,
        ),
    ] = None
    no_history: Annotated[bool, _history("--no-history", "Keep nothing of this conversation.")] = (
        False
    )

    @property
    def goes_on(self) -> bool:
        """Whether a conversation that was kept goes on."""
        return self.continue_ or self.session is not None


class Setup(NamedTuple):
    """What `ask` and `chat` have in common."""

    engine: EngineOptions = EngineOptions()
    system: Annotated[
        str | None, _prompt("--system -s TEXT", "The system message: who answers, and how.")
    ] = None
    context: Annotated[
        str | None,
        _prompt(
            "--context NAME",
            "A system message by its name: general, classifier, sql, math, or your own.",
            complete=context_names,
        ),
    ] = None
    think: Annotated[
        bool | None,
        _prompt(
            "--think/--no-think",
            "Have a model that can reason do so before it answers; or neither, nor show it.",
            default="as the model's template says",
        ),
    ] = None
    record: RecordOptions = RecordOptions()
    sampling: SamplingOptions = SamplingOptions()
    markdown: Annotated[
        bool,
        _report("--markdown/--no-markdown", "Render markdown where the answer is on a terminal."),
    ] = True
    stats: Annotated[
        bool, _report("--stats", "Print the settings, times and speeds to standard error.")
    ] = False
    verbose: Annotated[
        bool, _report("--verbose -v", "As --stats, and llama.cpp's own log with it.")
    ] = False

    @property
    def shows_stats(self) -> bool:
        """Whether settings, times and speeds are printed."""
        return self.stats or self.verbose


class AskOptions(NamedTuple):
    """What is for one question, and not for a chat."""

    raw: Annotated[
        bool,
        _prompt(
            "--raw",
            "Continue the text as it is, without any prompt format; print the answer as it comes.",
        ),
    ] = False
    attach: Annotated[
        list[str] | None,
        _prompt("--attach -a FILE", "Put a text file before the question; may be repeated."),
    ] = None
    edit: Annotated[bool, _prompt("--edit -e", "Write the question in your $EDITOR.")] = False
    schema: Annotated[
        str | None, _prompt("--schema JSON|FILE", "A JSON schema that the answer has to fulfil.")
    ] = None
    grammar: Annotated[
        str | None, _prompt("--grammar GBNF|FILE", "A grammar that the answer has to follow.")
    ] = None
    count_tokens: Annotated[
        bool, _prompt("--count", "Print how many tokens the prompt has, and ask nothing.")
    ] = False
    json: Annotated[
        bool, _report("--json", "Print one JSON object: the text, its cost, why it ended.")
    ] = False
    json_lines: Annotated[
        bool, _report("--json-lines", "Print a JSON object on a line for each piece.")
    ] = False
