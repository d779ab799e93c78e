"""The options of `llmstream ask` and `chat`."""

from functools import partial
from typing import Annotated, NamedTuple

from llmstream_cli.cli import options

_prompt = partial(options.option, "Prompt")
_machine = partial(options.option, "Machine")
_report = partial(options.option, "Report")
_history = partial(options.option, "History")
_server = partial(options.option, "Server")


class EngineOptions(NamedTuple):
    """The model that is asked, here or on another server."""

    features: options.Features = None
    model: options.Model = None
    file: options.RepoFile = None
    tokenizer: options.Tokenizer = None
    template: options.Template = None
    url: Annotated[
        str | None,
        _server(
            "--url URL",
            "Ask this server instead, a running `llmstream serve`; no model is loaded here.",
        ),
    ] = None
    api_key: options.ApiKey = None
    ctx_size: Annotated[
        int | None,
        _machine(
            "--ctx-size",
            "Tokens that question and answer may have together.",
            default="what the model was trained with, as far as memory allows",
        ),
    ] = None
    threads: options.Threads = None
    gpu_layers: options.GpuLayers = 0


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
            complete=options.session_names,
        ),
    ] = None
    no_history: Annotated[bool, _history("--no-history", "Keep nothing of this conversation.")] = (
        False
    )

    @property
    def goes_on(self) -> bool:
        """Whether a conversation that was kept goes on."""
        return self.continue_ or self.session is not None


class ToolOptions(NamedTuple):
    """Functions that the model may call."""

    tool: Annotated[
        list[str] | None,
        _prompt(
            "--tool FILE.py",
            "Let the model call the functions of this file, each call after your yes; may be "
            "repeated.",
        ),
    ] = None
    yes: Annotated[bool, _prompt("--yes -y", "Run the functions of --tool without asking.")] = False


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
            complete=options.context_names,
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
    tools: ToolOptions = ToolOptions()
    record: RecordOptions = RecordOptions()
    sampling: options.SamplingOptions = options.SamplingOptions()
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
