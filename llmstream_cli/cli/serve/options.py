"""The options of `llmstream serve`."""

from functools import partial
from typing import Annotated, NamedTuple

from llmstream_cli.cli import options

_model = partial(options.option, "Model")
_listen = partial(options.option, "Listen")
_access = partial(options.option, "Access")
_load = partial(options.option, "Load", default=True)
_report = partial(options.option, "Report")


class ServeOptions(NamedTuple):
    """Which models, for whom, and how many at once."""

    features: Annotated[
        list[str] | None,
        _model(
            "--features -f NAME",
            "A model by its name; may be repeated, and mixed with --model. The first is the one "
            "that answers requests which name none.",
            complete=options.preset_names,
        ),
    ] = None
    model: Annotated[
        list[str] | None,
        _model(
            "--model -m FILE|REPO",
            "A model by its .gguf file, or on the Hugging Face Hub: user/repo, user/repo:Q8_0; may "
            "be repeated.",
            complete=options.model_names,
        ),
    ] = None
    file: options.RepoFile = None
    tokenizer: options.Tokenizer = None
    template: options.Template = None
    host: Annotated[str, _listen("--host ADDRESS", "The address to bind.", default=True)] = (
        "127.0.0.1"
    )
    port: Annotated[int, _listen("--port N", "The port; 0 takes a free one.", default=True)] = 3030
    certfile: Annotated[
        str | None, _listen("--certfile FILE", "Certificate chain (PEM), to speak TLS.")
    ] = None
    keyfile: Annotated[
        str | None, _listen("--keyfile FILE", "Private key (PEM) of --certfile.")
    ] = None
    api_key: Annotated[
        list[str] | None,
        _access(
            "--api-key KEY",
            "A key that requests have to bear; may be repeated. In the variable LLMSTREAM_API_KEY, "
            "other users of the machine do not see it.",
        ),
    ] = None
    api_key_file: Annotated[
        str | None, _access("--api-key-file FILE", "Such keys, one on a line.")
    ] = None
    insecure_no_key: Annotated[
        bool,
        _access("--insecure-no-key", "Let everyone ask who can reach an address of no loopback."),
    ] = False
    allow_host: Annotated[
        list[str] | None,
        _access(
            "--allow-host NAME",
            "A host name to answer to, besides localhost and --host; may be repeated; * is any.",
        ),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        _access(
            "--cors-origin ORIGIN",
            "Pages that may ask, as https://example.org; may be repeated; * is all.",
        ),
    ] = None
    share_prefixes: Annotated[
        bool,
        _access(
            "--share-prefixes",
            "Let requests with different keys share computed prompts, and so notice each other's.",
        ),
    ] = False
    parallel: Annotated[int, _load("--parallel N", "Requests answered at once.")] = 4
    queue: Annotated[
        int, _load("--queue N", "Requests that wait for their turn; more get 429.")
    ] = 64
    timeout: Annotated[float, _load("--timeout SECONDS", "The most that an answer may take.")] = (
        1800.0
    )
    drain: Annotated[
        float,
        _load("--drain SECONDS", "How long answers may go on after a signal to stop."),
    ] = 20.0
    memory: Annotated[
        str | None,
        _load(
            "--memory SIZE",
            "What all loaded models may take together, as 8G.",
            default="what is available at the start but for a tenth of the machine's",
        ),
    ] = None
    keep_alive: Annotated[
        str | None,
        _load(
            "--keep-alive TIME",
            "Unload a model that nobody has asked for so long: 300, 5m, 1h; 0 at once; -1 never.",
            default="never for the first model, 5m for the others",
        ),
    ] = None
    ctx_size: Annotated[
        int | None,
        options.option(
            "Machine",
            "--ctx-size",
            "Tokens that each question and answer may have together.",
            default="what the model was trained with, as far as memory allows",
        ),
    ] = None
    threads: options.Threads = None
    gpu_layers: options.GpuLayers = 0
    sampling: options.SamplingOptions = options.SamplingOptions()
    log_json: Annotated[bool, _report("--log-json", "Log JSON objects instead of text.")] = False
    verbose: Annotated[bool, _report("--verbose -v", "Show llama.cpp's own log.")] = False
