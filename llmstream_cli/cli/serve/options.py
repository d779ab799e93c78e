"""The options of `llmstream serve`."""

from functools import partial
from typing import Annotated, NamedTuple

import typer

from llmstream_cli.cli import complete, options
from llmstream_cli.cli.sampling import SamplingOptions

_model = partial(typer.Option, rich_help_panel="Model", show_default=False)
_listen = partial(typer.Option, rich_help_panel="Listen", show_default=False)
_access = partial(typer.Option, rich_help_panel="Access", show_default=False)
_load = partial(typer.Option, rich_help_panel="Load")
_machine = partial(typer.Option, rich_help_panel="Machine", show_default=False)
_report = partial(typer.Option, rich_help_panel="Report", show_default=False)


class ServeOptions(NamedTuple):
    """Which models, for whom, and how many at once."""

    features: Annotated[
        list[str] | None,
        _model(
            "--features",
            "-f",
            metavar="NAME",
            help="A model by its name; may be repeated, and mixed with --model. The first is the "
            "one that answers requests which name none.",
            autocompletion=complete.presets,
        ),
    ] = None
    model: Annotated[
        list[str] | None,
        _model(
            "--model",
            "-m",
            metavar="FILE|REPO",
            help="A model by its .gguf file, or on the Hugging Face Hub: user/repo, "
            "user/repo:Q8_0; may be repeated.",
            autocompletion=complete.models,
        ),
    ] = None
    file: options.RepoFile = None
    tokenizer: options.Tokenizer = None
    template: options.Template = None
    host: Annotated[
        str, _listen(metavar="ADDRESS", help="The address to bind.", show_default=True)
    ] = "127.0.0.1"
    port: Annotated[
        int, _listen(metavar="N", help="The port; 0 takes a free one.", show_default=True)
    ] = 3030
    certfile: Annotated[
        str | None,
        _listen(metavar="FILE", help="Certificate chain (PEM), to speak TLS."),
    ] = None
    keyfile: Annotated[
        str | None, _listen(metavar="FILE", help="Private key (PEM) of --certfile.")
    ] = None
    api_key: Annotated[
        list[str] | None,
        _access(
            metavar="KEY",
            help="A key that requests have to bear; may be repeated. In the variable "
            "LLMSTREAM_API_KEY, other users of the machine do not see it.",
        ),
    ] = None
    api_key_file: Annotated[
        str | None, _access(metavar="FILE", help="Such keys, one on a line.")
    ] = None
    insecure_no_key: Annotated[
        bool,
        _access(
            "--insecure-no-key", help="Let everyone ask who can reach an address of no loopback."
        ),
    ] = False
    allow_host: Annotated[
        list[str] | None,
        _access(
            metavar="NAME",
            help="A host name to answer to, besides localhost and --host; may be repeated; * is "
            "any.",
        ),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        _access(
            metavar="ORIGIN",
            help="Pages that may ask, as https://example.org; may be repeated; * is all.",
        ),
    ] = None
    share_prefixes: Annotated[
        bool,
        _access(
            "--share-prefixes",
            help="Let requests with different keys share computed prompts, and so notice each "
            "other's.",
        ),
    ] = False
    parallel: Annotated[int, _load(metavar="N", help="Requests answered at once.")] = 4
    queue: Annotated[
        int, _load(metavar="N", help="Requests that wait for their turn; more get 429.")
    ] = 64
    timeout: Annotated[
        float, _load(metavar="SECONDS", help="The most that an answer may take.")
    ] = 1800.0
    drain: Annotated[
        float,
        _load(metavar="SECONDS", help="How long answers may go on after a signal to stop."),
    ] = 20.0
    memory: Annotated[
        str | None,
        _load(
            metavar="SIZE",
            help="What all loaded models may take together, as 8G.",
            show_default="what is available at the start but for a tenth of the machine's",
        ),
    ] = None
    keep_alive: Annotated[
        str | None,
        _load(
            metavar="TIME",
            help="Unload a model that nobody has asked for so long: 300, 5m, 1h; 0 at once; -1 "
            "never.",
            show_default="never for the first model, 5m for the others",
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        _machine(
            help="Tokens that each question and answer may have together.",
            show_default="what the model was trained with, as far as memory allows",
        ),
    ] = None
    threads: options.Threads = None
    gpu_layers: options.GpuLayers = 0
    sampling: SamplingOptions = SamplingOptions()
    log_json: Annotated[bool, _report("--log-json", help="Log JSON objects instead of text.")] = (
        False
    )
    verbose: Annotated[bool, _report("--verbose", "-v", help="Show llama.cpp's own log.")] = False
