"""The commands and their options. What a command does is imported when it runs."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import llmstream_cli
from llmstream_cli.cli import chat_app, config_app, history, options
from llmstream_cli.cli.model_order import ModelOrderCommand, model_choices
from llmstream_cli.cli.models.commands import app as models_app
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.settings import SettingsCommand, name_option
from llmstream_cli.cli.terminal import check_text, complain, discard_output
from llmstream_cli.errors import LLMStreamError, one_line

app = typer.Typer(
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
app.add_typer(models_app, name="models")
app.add_typer(history.app, name="history")
app.add_typer(config_app.app, name="config")


def run(arguments: Sequence[str]) -> int:
    """Run a command line; return the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    if sys.stdout is None:
        return _fail("standard output is closed", 1)
    try:
        for number, argument in enumerate(arguments, 1):
            check_text(argument, f"argument {number}")
        code: int | None = app(arguments, prog_name="llmstream", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:  # an unknown option, a value of the wrong type
        return _fail(_with_hint(error.format_message(), arguments), error.exit_code)
    except LLMStreamError as error:
        return _fail(name_option(error), error.exit_code)
    except (BrokenPipeError, SystemExit) as error:
        return _left(error)
    except OSError as error:
        discard_output()
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"cannot write{where}: {error.strerror}", 1)
    return code or 0


def _with_hint(message: str, arguments: Sequence[str]) -> str:
    from llmstream_cli.cli.meant import meant

    line = meant(arguments, vars(typer.main.get_command(app))["commands"])
    if line is None:
        return message
    # Typer's own guess is by the letters alone.
    return f"{message.partition('. Did you')[0].rstrip('.')}; did you mean `{line}`?"


def _left(error: BaseException) -> int:
    """Return the exit code when a reader has left, or Typer has told a shell what it asked."""
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return error.code if isinstance(error.code, int) else 0
    discard_output()  # `| head -1` has all it wanted
    return 0


def _fail(message: str, code: int) -> int:
    complain(f"llmstream: {one_line(message)}\n")
    return code


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"llmstream {llmstream_cli.__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Stream a local language model to your terminal."""
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command(
    cls=SettingsCommand,
    help="Ask one question and stream the answer."
    "\n\nOnly the answer goes to standard output. With no model named, the embedded SmolLM2 "
    "answers: it has 135 million parameters and proves the installation; a larger model "
    "answers well.",
)
def ask(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            help="The question. Piped standard input is appended to it, or is the question.",
            show_default=False,
        ),
    ] = None,
    features: options.Features = None,
    model: options.Model = None,
    file: options.RepoFile = None,
    tokenizer: options.Tokenizer = None,
    system: options.System = None,
    context: options.Context = None,
    template: options.Template = None,
    raw: options.Raw = False,
    think: options.Think = None,
    attach: options.Attach = None,
    edit: options.Edit = False,
    continue_: options.Continue = False,
    session: options.Session = None,
    no_history: options.NoHistory = False,
    schema: options.Schema = None,
    grammar: options.Grammar = None,
    count: options.Count = False,
    url: options.AskUrl = None,
    api_key: options.ApiKey = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = 0,
    markdown: options.Markdown = True,
    json: options.AnswerJson = False,
    json_lines: options.JsonLines = False,
    stats: options.Stats = False,
    verbose: options.Verbose = False,
) -> int:
    """Turn the options into settings, and ask."""
    from llmstream_cli.cli.ask import Ask
    from llmstream_cli.cli.engine_options import EngineOptions
    from llmstream_cli.cli.question import Question
    from llmstream_cli.cli.setup import RecordOptions, Setup, ViewOptions
    from llmstream_cli.cli.structured import read_grammar, read_schema
    from llmstream_cli.models.resolve import ModelChoice

    sampling = SamplingOptions(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        grammar=None if grammar is None else read_grammar(grammar),
        json_schema=None if schema is None else read_schema(schema),
    )
    engine = EngineOptions(
        model=ModelChoice(preset=features, model=model, file=file, tokenizer=tokenizer),
        template=template,
        ctx_size=ctx_size,
        threads=threads,
        gpu_layers=gpu_layers,
        url=url,
        api_key=api_key,
        verbose=verbose,
    )
    setup = Setup(
        engine=engine,
        system=system,
        context=context,
        sampling=sampling,
        think=think,
        view=ViewOptions(
            json=json,
            json_lines=json_lines,
            markdown=markdown and not raw,
            reasoning=think is not False,
        ),
        record=RecordOptions(continues=continue_, session=session, off=no_history),
        stats=stats or verbose,
    )
    question = Question(words=query or [], files=attach or [], in_editor=edit, raw=raw)
    return Ask(setup=setup, question=question, count=count).run()


app.command("chat", cls=SettingsCommand, help=chat_app.HELP)(chat_app.chat)


@app.command(
    cls=ModelOrderCommand,
    help="Serve models over HTTP: plain text streams, OpenAI's and Ollama's APIs, a page."
    "\n\nThe first model is loaded at the start; others when a request asks for them, as far as "
    "--memory goes."
    "\n\nStandard output gets the server's URL, standard error the log. The first Ctrl-C or "
    "SIGTERM lets answers end for --drain seconds; the second Ctrl-C leaves at once.",
)
def serve(
    context: typer.Context,
    features: options.ServedFeatures = None,
    model: options.ServedModelFiles = None,
    file: options.RepoFile = None,
    tokenizer: options.Tokenizer = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 3030,
    certfile: options.CertFile = None,
    keyfile: options.KeyFile = None,
    api_key: options.ServerKeys = None,
    api_key_file: options.ApiKeyFile = None,
    insecure_no_key: options.InsecureNoKey = False,
    allow_host: options.AllowHost = None,
    cors_origin: options.CorsOrigin = None,
    share_prefixes: options.SharePrefixes = False,
    parallel: options.Parallel = 4,
    queue: options.Queue = 64,
    timeout: options.Timeout = 1800.0,
    drain: options.Drain = 20.0,
    memory: options.MaxMemory = None,
    keep_alive: options.KeepAlive = None,
    template: options.Template = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx_size: options.SlotCtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = 0,
    log_json: options.LogJson = False,
    verbose: options.ServerVerbose = False,
) -> int:
    """Turn the options into settings, and serve."""
    from llmstream_cli.cli.serve import Serve, read_keys
    from llmstream_cli.cli.served_models import Residence
    from llmstream_cli.models.sizes import parse_size
    from llmstream_cli.server.served import keep_alive_seconds
    from llmstream_cli.server.settings import ServerSettings

    sampling = SamplingOptions(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        repeat_last_n=repeat_last_n,
        seed=seed,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
    )
    settings = ServerSettings(
        host=host,
        port=port,
        certfile=certfile,
        keyfile=keyfile,
        api_keys=read_keys(api_key or [], api_key_file),
        allowed_hosts=tuple(allow_host or ()),
        cors_origins=tuple(cors_origin or ()),
        share_prefixes=share_prefixes,
        timeout_seconds=timeout,
        drain_seconds=drain,
    )
    residence = Residence(
        max_bytes=None if memory is None else parse_size(memory),
        keep_alive=None if keep_alive is None else keep_alive_seconds(keep_alive),
    )
    return Serve(
        models=model_choices(context, file=file, tokenizer=tokenizer),
        residence=residence,
        template=template,
        sampling=sampling,
        parallel=parallel,
        queue=queue,
        ctx_size=ctx_size,
        threads=threads,
        gpu_layers=gpu_layers,
        settings=settings,
        insecure_no_key=insecure_no_key,
        log_json=log_json,
        verbose=verbose,
    ).run()


@app.command(
    cls=SettingsCommand,
    help="Measure how fast a model answers, for one reader and for many."
    "\n\nA number of streams ask at once: distinct prompts, or such as share a long prefix. It "
    "ends within a minute, unless you say how many streams, runs or seconds. With "
    "--url it measures any server that speaks the OpenAI API by the same means.",
)
def bench(
    features: options.Features = None,
    model: options.Model = None,
    file: options.RepoFile = None,
    tokenizer: options.Tokenizer = None,
    template: options.Template = None,
    url: options.Url = None,
    url_model: options.UrlModel = None,
    api_key: options.ApiKey = None,
    streams: options.Streams = None,
    prefix: options.Prefix = "both",
    prompt_tokens: options.PromptTokens = 256,
    max_tokens: options.AnswerTokens = 64,
    repeat: options.Repeat = None,
    seconds: options.Seconds = None,
    seed: options.PromptSeed = None,
    ctx_size: options.StreamCtxSize = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> int:
    """Turn the options into a benchmark, and run it."""
    from llmstream_cli.cli.bench.command import bench as measure
    from llmstream_cli.models.resolve import ModelChoice

    return measure(
        model=ModelChoice(preset=features, model=model, file=file, tokenizer=tokenizer),
        template=template,
        url=url,
        url_model=url_model,
        api_key=api_key,
        streams=streams,
        prefix=prefix,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        repeat=repeat,
        seconds=seconds,
        seed=seed,
        ctx_size=ctx_size,
        threads=threads,
        json=json,
    )


@app.command(
    help="Examine this installation and this machine, and tell what to do about what is wrong."
    "\n\nIt has the model answer that `ask` would take. The exit code is 1 if something does not "
    "work."
)
def doctor(json: options.Json = False) -> int:
    """Examine; return the exit code."""
    from llmstream_cli.cli.doctor import examine

    return examine(json=json)
