"""The options that several commands share, and groups of them for `takes`."""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import typer

from llmstream_cli.cli import complete
from llmstream_cli.cli.sampling import SamplingOptions

_model = partial(typer.Option, rich_help_panel="Model", show_default=False)
_prompt = partial(typer.Option, rich_help_panel="Prompt", show_default=False)
_machine = partial(typer.Option, rich_help_panel="Machine", show_default=False)
_report = partial(typer.Option, rich_help_panel="Report", show_default=False)
_history = partial(typer.Option, rich_help_panel="History", show_default=False)
_server = partial(typer.Option, rich_help_panel="Server", show_default=False)
_workload = partial(typer.Option, rich_help_panel="Workload", show_default=True)


Features = Annotated[
    str | None,
    _model(
        "--features",
        "-f",
        metavar="NAME",
        help="A model by its name; see `llmstream models list`.",
        autocompletion=complete.presets,
    ),
]
Model = Annotated[
    str | None,
    _model(
        "--model",
        "-m",
        metavar="FILE|REPO",
        help="A model by its .gguf file, or on the Hugging Face Hub: user/repo, user/repo:Q8_0.",
        autocompletion=complete.models,
    ),
]
RepoFile = Annotated[
    str | None, _model("--file", metavar="NAME", help="The file of the repository in --model.")
]
Tokenizer = Annotated[
    str | None,
    _model(
        "--tokenizer",
        metavar="FILE|REPO",
        help="The tokenizer.json for weights in candle's layout.",
    ),
]

Template = Annotated[
    str | None,
    _model(
        "--template",
        metavar="NAME|FILE",
        help="How the conversation is written down: a prompt format by its name, or a Jinja file.",
        show_default="as the model's file says",
        autocompletion=complete.templates,
    ),
]


Threads = Annotated[
    int | None,
    _machine("--threads", help="CPU threads.", show_default="one for each physical core"),
]
GpuLayers = Annotated[
    int,
    _machine(
        "--gpu-layers",
        help="Layers to keep on a GPU, where llama-cpp-python was built for one; -1 is all.",
        show_default=True,
    ),
]


ApiKey = Annotated[
    str | None,
    _server(
        "--api-key",
        metavar="KEY",
        help="The server's key; in the variable LLMSTREAM_API_KEY, other users do not see it.",
    ),
]

# ---- of bench -------------------------------------------------------------------------------

Url = Annotated[
    str | None,
    _server("--url", metavar="URL", help="Measure this server instead: http://127.0.0.1:8080."),
]
UrlModel = Annotated[
    str | None,
    _server(
        "--url-model",
        metavar="NAME",
        help="The model to ask for.",
        show_default="the only one that the server has",
    ),
]
Streams = Annotated[
    str | None,
    _workload(
        "--streams",
        metavar="N,N",
        help="How many streams ask at once, in turn.",
        show_default="1,2,4,8,16,32",
    ),
]
Prefix = Annotated[
    Literal["distinct", "shared", "both"],
    _workload("--prefix", help="Prompts with nothing in common, with all but the end, or both."),
]
PromptTokens = Annotated[
    int, _workload("--prompt-tokens", metavar="N", help="Length of a prompt, about.")
]
AnswerTokens = Annotated[
    int, _workload("--max-tokens", "-n", metavar="N", help="Length of an answer at most.")
]
Repeat = Annotated[
    int | None,
    _workload(
        "--repeat",
        metavar="N",
        help="Runs of each kind; the report has the medians.",
        show_default="3; 1 without --streams",
    ),
]
Seconds = Annotated[
    float | None,
    _workload(
        "--seconds",
        metavar="N",
        help="Begin no run that would take longer, from the start; 0 is no limit.",
        show_default="none; 50 with neither --streams nor --repeat",
    ),
]
PromptSeed = Annotated[
    int | None,
    _workload(
        "--seed",
        metavar="N",
        help="Other prompts.",
        show_default="0; with --url a new one each time",
    ),
]
StreamCtxSize = Annotated[
    int | None,
    _machine(
        "--ctx-size",
        metavar="N",
        help="Tokens that question and answer of a stream may have together.",
        show_default="what they need",
    ),
]
Json = Annotated[bool, _report("--json", help="Print one JSON object instead of a table.")]

# ---- groups ---------------------------------------------------------------------------------
# Named tuples are made sooner than dataclasses, for which every answer would wait.


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
            "--url",
            metavar="URL",
            help="Ask this server instead, a running `llmstream serve`; no model is loaded here.",
        ),
    ] = None
    api_key: ApiKey = None
    ctx_size: Annotated[
        int | None,
        _machine(
            "--ctx-size",
            help="Tokens that question and answer may have together.",
            show_default="what the model was trained with, as far as memory allows",
        ),
    ] = None
    threads: Threads = None
    gpu_layers: GpuLayers = 0


class RecordOptions(NamedTuple):
    """The conversation that goes on, and whether it is kept."""

    continue_: Annotated[
        bool, _history("--continue", "-c", help="Go on with the conversation that was held last.")
    ] = False
    session: Annotated[
        str | None,
        _history(
            "--session",
            metavar="NAME",
            help="Go on with the conversation of that name, or begin it; see "
            "`llmstream history list`.",
            autocompletion=complete.sessions,
        ),
    ] = None
    no_history: Annotated[
        bool, _history("--no-history", help="Keep nothing of this conversation.")
    ] = False

    @property
    def goes_on(self) -> bool:
        """Whether a conversation that was kept goes on."""
        return self.continue_ or self.session is not None


class Setup(NamedTuple):
    """What `ask` and `chat` have in common."""

    engine: EngineOptions = EngineOptions()
    system: Annotated[
        str | None,
        _prompt("--system", "-s", metavar="TEXT", help="The system message: who answers, and how."),
    ] = None
    context: Annotated[
        str | None,
        _prompt(
            "--context",
            metavar="NAME",
            help="A system message by its name: general, classifier, sql, math, or your own.",
            autocompletion=complete.contexts,
        ),
    ] = None
    think: Annotated[
        bool | None,
        _prompt(
            "--think/--no-think",
            help="Have a model that can reason do so before it answers; or neither, nor show it.",
            show_default="as the model's template says",
        ),
    ] = None
    record: RecordOptions = RecordOptions()
    sampling: SamplingOptions = SamplingOptions()
    markdown: Annotated[
        bool,
        _report(
            "--markdown/--no-markdown", help="Render markdown where the answer is on a terminal."
        ),
    ] = True
    stats: Annotated[
        bool, _report("--stats", help="Print the settings, times and speeds to standard error.")
    ] = False
    verbose: Annotated[
        bool, _report("--verbose", "-v", help="As --stats, and llama.cpp's own log with it.")
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
            help="Continue the text as it is, without any prompt format; print the answer as it "
            "comes.",
        ),
    ] = False
    attach: Annotated[
        list[str] | None,
        _prompt(
            "--attach",
            "-a",
            metavar="FILE",
            help="Put a text file before the question; may be repeated.",
        ),
    ] = None
    edit: Annotated[bool, _prompt("--edit", "-e", help="Write the question in your $EDITOR.")] = (
        False
    )
    schema: Annotated[
        str | None,
        _prompt(
            "--schema", metavar="JSON|FILE", help="A JSON schema that the answer has to fulfil."
        ),
    ] = None
    grammar: Annotated[
        str | None,
        _prompt("--grammar", metavar="GBNF|FILE", help="A grammar that the answer has to follow."),
    ] = None
    count_tokens: Annotated[
        bool, _prompt("--count", help="Print how many tokens the prompt has, and ask nothing.")
    ] = False
    json: Annotated[
        bool, _report("--json", help="Print one JSON object: the text, its cost, why it ended.")
    ] = False
    json_lines: Annotated[
        bool, _report("--json-lines", help="Print a JSON object on a line for each piece.")
    ] = False
