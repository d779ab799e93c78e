"""The options of `llmstream bench`."""

from functools import partial
from typing import Annotated, Literal, NamedTuple

from llmstream_cli.cli import options

_machine = partial(options.option, "Machine")
_server = partial(options.option, "Server")
_workload = partial(options.option, "Workload", default=True)


class BenchOptions(NamedTuple):
    """What is measured: a model or a server, with how much at once."""

    features: options.Features = None
    model: options.Model = None
    file: options.RepoFile = None
    tokenizer: options.Tokenizer = None
    template: options.Template = None
    url: Annotated[
        str | None,
        _server("--url URL", "Measure this server instead: http://127.0.0.1:8080."),
    ] = None
    url_model: Annotated[
        str | None,
        _server(
            "--url-model NAME", "The model to ask for.", default="the only one that the server has"
        ),
    ] = None
    api_key: options.ApiKey = None
    streams: Annotated[
        str | None,
        _workload(
            "--streams N,N", "How many streams ask at once, in turn.", default="1,2,4,8,16,32"
        ),
    ] = None
    prefix: Annotated[
        Literal["distinct", "shared", "both"],
        _workload(
            "--prefix",
            "Prompts with nothing in common, with all but the end, or both.",
        ),
    ] = "both"
    prompt_tokens: Annotated[int, _workload("--prompt-tokens N", "Length of a prompt, about.")] = (
        256
    )
    max_tokens: Annotated[int, _workload("--max-tokens -n N", "Length of an answer at most.")] = 64
    repeat: Annotated[
        int | None,
        _workload(
            "--repeat N",
            "Runs of each kind; the report has the medians.",
            default="3; 1 without --streams",
        ),
    ] = None
    seconds: Annotated[
        float | None,
        _workload(
            "--seconds N",
            "Begin no run that would take longer, from the start; 0 is no limit.",
            default="none; 50 with neither --streams nor --repeat",
        ),
    ] = None
    seed: Annotated[
        int | None,
        _workload("--seed N", "Other prompts.", default="0; with --url a new one each time"),
    ] = None
    ctx_size: Annotated[
        int | None,
        _machine(
            "--ctx-size N",
            "Tokens that question and answer of a stream may have together.",
            default="what they need",
        ),
    ] = None
    threads: options.Threads = None
    json: options.Json = False
