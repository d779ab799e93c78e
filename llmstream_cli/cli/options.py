"""The options that several commands share, as annotated types."""

from functools import partial
from typing import Annotated, Literal

import typer
from typer.models import OptionInfo

from llmstream_cli.api import SamplingParams
from llmstream_cli.cli import complete

_DEFAULTS = SamplingParams()

_model = partial(typer.Option, rich_help_panel="Model", show_default=False)
_prompt = partial(typer.Option, rich_help_panel="Prompt", show_default=False)
_length = partial(typer.Option, rich_help_panel="Length", show_default=False)
_machine = partial(typer.Option, rich_help_panel="Machine", show_default=False)
_report = partial(typer.Option, rich_help_panel="Report", show_default=False)
_server = partial(typer.Option, rich_help_panel="Server", show_default=False)
_workload = partial(typer.Option, rich_help_panel="Workload", show_default=True)


def _sampling(*flags: str, help: str, name: str) -> OptionInfo:  # noqa: A002  (Typer's word)
    """Make the option of a sampling parameter, whose default a preset may change."""
    default = f"{getattr(_DEFAULTS, name)}, or as its authors advise"
    made: OptionInfo = typer.Option(
        *flags, help=help, rich_help_panel="Sampling", show_default=default
    )
    return made


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
ServedFeatures = Annotated[
    list[str] | None,
    _model(
        "--features",
        "-f",
        metavar="NAME",
        help="A model by its name; may be repeated, and mixed with --model. The first is the one "
        "that answers requests which name none.",
        autocompletion=complete.presets,
    ),
]
ServedModelFiles = Annotated[
    list[str] | None,
    _model(
        "--model",
        "-m",
        metavar="FILE|REPO",
        help="A model by its .gguf file, or on the Hugging Face Hub: user/repo, user/repo:Q8_0; "
        "may be repeated.",
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

System = Annotated[
    str | None,
    _prompt("--system", "-s", metavar="TEXT", help="The system message: who answers, and how."),
]
Context = Annotated[
    str | None,
    _prompt(
        "--context",
        metavar="NAME",
        help="A system message by its name: general, classifier, sql, math, or your own.",
        autocompletion=complete.contexts,
    ),
]
Template = Annotated[
    str | None,
    _prompt(
        "--template",
        metavar="NAME|FILE",
        help="How the conversation is written down: a prompt format by its name, or a Jinja file.",
        show_default="as the model's file says",
        autocompletion=complete.templates,
    ),
]
Raw = Annotated[
    bool,
    _prompt(
        "--raw",
        help="Continue the text as it is, without any prompt format; print the answer as it comes.",
    ),
]
Attach = Annotated[
    list[str] | None,
    _prompt(
        "--attach",
        "-a",
        metavar="FILE",
        help="Put a text file before the question; may be repeated.",
    ),
]
Edit = Annotated[bool, _prompt("--edit", "-e", help="Write the question in your $EDITOR.")]
Schema = Annotated[
    str | None,
    _prompt("--schema", metavar="JSON|FILE", help="A JSON schema that the answer has to fulfil."),
]
Grammar = Annotated[
    str | None,
    _prompt("--grammar", metavar="GBNF|FILE", help="A grammar that the answer has to follow."),
]
Count = Annotated[
    bool, _prompt("--count", help="Print how many tokens the prompt has, and ask nothing.")
]
Think = Annotated[
    bool | None,
    _prompt(
        "--think/--no-think",
        help="Have a model that can reason do so before it answers; or neither, nor show it.",
        show_default="as the model's template says",
    ),
]

_history = partial(typer.Option, rich_help_panel="History", show_default=False)

Continue = Annotated[
    bool, _history("--continue", "-c", help="Go on with the conversation that was held last.")
]
Session = Annotated[
    str | None,
    _history(
        "--session",
        metavar="NAME",
        help="Go on with the conversation of that name, or begin it; see `llmstream history list`.",
        autocompletion=complete.sessions,
    ),
]
NoHistory = Annotated[bool, _history("--no-history", help="Keep nothing of this conversation.")]

AskUrl = Annotated[
    str | None,
    _server(
        "--url",
        metavar="URL",
        help="Ask this server instead, a running `llmstream serve`; no model is loaded here.",
    ),
]

Temperature = Annotated[
    float | None,
    _sampling(
        "--temperature",
        "-t",
        help="How freely to draw; 0 takes the most likely token.",
        name="temperature",
    ),
]
TopK = Annotated[
    int | None,
    _sampling(
        "--top-k", help="Draw from the k most likely tokens; 0 from all of them.", name="top_k"
    ),
]
TopP = Annotated[
    float | None,
    _sampling(
        "--top-p", help="Draw from the likeliest tokens that together reach p.", name="top_p"
    ),
]
MinP = Annotated[
    float | None,
    _sampling("--min-p", help="Drop tokens less likely than p times the likeliest.", name="min_p"),
]
RepeatPenalty = Annotated[
    float | None,
    _sampling(
        "--repeat-penalty", help="Make recent tokens less likely; 1 is off.", name="repeat_penalty"
    ),
]
RepeatLastN = Annotated[
    int | None,
    _sampling(
        "--repeat-last-n",
        help="How many tokens count as recent; -1 is the whole context.",
        name="repeat_last_n",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        rich_help_panel="Sampling",
        help="Draw the same answer each time.",
        show_default="a new one each time",
    ),
]

MaxTokens = Annotated[
    int | None,
    _length(
        "--max-tokens",
        "-n",
        help="End the answer after n tokens.",
        show_default="the model decides",
    ),
]
Stop = Annotated[
    list[str] | None,
    _length("--stop", metavar="TEXT", help="End the answer before this text; may be repeated."),
]
CtxSize = Annotated[
    int | None,
    _length(
        "--ctx-size",
        help="Tokens that question and answer may have together.",
        show_default="what the model was trained with, as far as memory allows",
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

Stats = Annotated[
    bool, _report("--stats", help="Print the settings, times and speeds to standard error.")
]
Verbose = Annotated[
    bool, _report("--verbose", "-v", help="As --stats, and llama.cpp's own log with it.")
]

Markdown = Annotated[
    bool,
    _report("--markdown/--no-markdown", help="Render markdown where the answer is on a terminal."),
]
AnswerJson = Annotated[
    bool, _report("--json", help="Print one JSON object: the text, its cost, why it ended.")
]
JsonLines = Annotated[
    bool, _report("--json-lines", help="Print a JSON object on a line for each piece.")
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
ApiKey = Annotated[
    str | None,
    _server(
        "--api-key",
        metavar="KEY",
        help="The server's key; in the variable LLMSTREAM_API_KEY, other users do not see it.",
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

# ---- of serve -------------------------------------------------------------------------------

_listen = partial(typer.Option, rich_help_panel="Listen", show_default=False)
_access = partial(typer.Option, rich_help_panel="Access", show_default=False)
_load = partial(typer.Option, rich_help_panel="Load")

Host = Annotated[
    str, _listen("--host", metavar="ADDRESS", help="The address to bind.", show_default=True)
]
Port = Annotated[
    int, _listen("--port", metavar="N", help="The port; 0 takes a free one.", show_default=True)
]
CertFile = Annotated[
    str | None,
    _listen("--certfile", metavar="FILE", help="Certificate chain (PEM), to speak TLS."),
]
KeyFile = Annotated[
    str | None, _listen("--keyfile", metavar="FILE", help="Private key (PEM) of --certfile.")
]

ServerKeys = Annotated[
    list[str] | None,
    _access(
        "--api-key",
        metavar="KEY",
        help="A key that requests have to bear; may be repeated. In the variable "
        "LLMSTREAM_API_KEY, other users of the machine do not see it.",
    ),
]
ApiKeyFile = Annotated[
    str | None, _access("--api-key-file", metavar="FILE", help="Such keys, one on a line.")
]
InsecureNoKey = Annotated[
    bool,
    _access("--insecure-no-key", help="Let everyone ask who can reach an address of no loopback."),
]
AllowHost = Annotated[
    list[str] | None,
    _access(
        "--allow-host",
        metavar="NAME",
        help="A host name to answer to, besides localhost and --host; may be repeated; * is any.",
    ),
]
SharePrefixes = Annotated[
    bool,
    _access(
        "--share-prefixes",
        help="Let requests with different keys share computed prompts, and so notice each other's.",
    ),
]
CorsOrigin = Annotated[
    list[str] | None,
    _access(
        "--cors-origin",
        metavar="ORIGIN",
        help="Pages that may ask, as https://example.org; may be repeated; * is all.",
    ),
]

Parallel = Annotated[int, _load("--parallel", metavar="N", help="Requests answered at once.")]
Queue = Annotated[
    int, _load("--queue", metavar="N", help="Requests that wait for their turn; more get 429.")
]
Timeout = Annotated[
    float, _load("--timeout", metavar="SECONDS", help="The most that an answer may take.")
]
Drain = Annotated[
    float,
    _load("--drain", metavar="SECONDS", help="How long answers may go on after a signal to stop."),
]

MaxMemory = Annotated[
    str | None,
    _load(
        "--memory",
        metavar="SIZE",
        help="What all loaded models may take together, as 8G.",
        show_default="what is available at the start but for a tenth of the machine's",
    ),
]
KeepAlive = Annotated[
    str | None,
    _load(
        "--keep-alive",
        metavar="TIME",
        help="Unload a model that nobody has asked for so long: 300, 5m, 1h; 0 at once; -1 never.",
        show_default="never for the first model, 5m for the others",
    ),
]

SlotCtxSize = Annotated[
    int | None,
    _length(
        "--ctx-size",
        help="Tokens that each question and answer may have together.",
        show_default="what the model was trained with, as far as memory allows",
    ),
]

LogJson = Annotated[bool, _report("--log-json", help="Log JSON objects instead of text.")]
ServerVerbose = Annotated[bool, _report("--verbose", "-v", help="Show llama.cpp's own log.")]
