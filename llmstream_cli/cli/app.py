"""The commands and their options. What a command does is imported when it runs."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

import llmstream_cli
from llmstream_cli.cli import history
from llmstream_cli.cli.ask.options import AskOptions, Setup
from llmstream_cli.cli.bench.options import BenchOptions
from llmstream_cli.cli.config.commands import app as config_app
from llmstream_cli.cli.config.settings import SettingsCommand, settings_commands, unknown_variables
from llmstream_cli.cli.embed import EmbedOptions
from llmstream_cli.cli.models.commands import app as models_app
from llmstream_cli.cli.options import Json, print_help, takes
from llmstream_cli.cli.serve.options import ServeOptions
from llmstream_cli.cli.terminal import check_text, discard_output, write_stderr
from llmstream_cli.errors import LLMStreamError, did_you_mean, one_line

app = typer.Typer(
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
app.add_typer(models_app, name="models")
app.add_typer(history.app, name="history")
app.add_typer(config_app, name="config")


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
        return _fail(str(error), error.exit_code)
    except (BrokenPipeError, SystemExit) as error:
        return _left(error)
    except OSError as error:
        discard_output()
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"cannot write{where}: {error.strerror}", 1)
    return code or 0


def _with_hint(message: str, arguments: Sequence[str]) -> str:
    """Add the command line that was meant to an error; Typer's guess is by the letters alone."""
    words = _meant(arguments, vars(typer.main.get_command(app))["commands"])
    if words is None or [*words] == [*arguments]:
        return message
    line = " ".join(map(_quoted, ("llmstream", *words)))
    return f"{message.partition('. Did you')[0].rstrip('.')}; did you mean `{line}`?"


def _left(error: BaseException) -> int:
    """Return the exit code when a reader has left, or Typer has told a shell what it asked."""
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return error.code if isinstance(error.code, int) else 0
    discard_output()  # `| head -1` has all it wanted
    return 0


def _fail(message: str, code: int) -> int:
    write_stderr(f"llmstream: {one_line(message)}\n")
    return code


# ---- command lines of other programs --------------------------------------------------------

_ALIASES = {
    (*group.split(), alias): command
    for group, aliases, command in (
        ("", "generate complete prompt", "ask"),
        ("", "server start", "serve"),
        ("", "pull download", "models pull"),
        ("", "list ls ps", "models list"),
        ("", "rm remove delete", "models remove"),
        ("", "show", "models show"),
        ("", "search", "history search"),
        ("", "version", "--version"),
        ("", "help", "--help"),
        ("models", "ls", "models list"),
        ("models", "rm delete", "models remove"),
        ("models", "download", "models pull"),
        ("history", "ls", "history list"),
        ("history", "rm remove", "history delete"),
    )
    for alias in aliases.split()
}
_PROMPTS = {"-p", "--prompt"}


def _meant(arguments: Sequence[str], commands: Mapping[str, Any]) -> Sequence[str] | None:
    """Return the words that may have been meant by those that were refused."""
    words: Sequence[str] | None = None
    match arguments:
        case ["run", *rest]:  # MODEL QUESTION
            words = ["ask" if rest[1:] else "chat", *(["-m", *rest] if rest else [])]
        case ["ask", *rest]:
            words = ["ask", *_without_prompt(rest)]
        case ["serve", *rest]:
            words = ["serve", *("--port" if word == "-p" else word for word in rest)]
        case [first, *_] if first.startswith("-"):  # an option of a command that is not named
            option = first.partition("=")[0]
            if option in _flags(commands["ask"]) | _PROMPTS:
                words = ["ask", *_without_prompt(arguments)]
            elif option in _flags(commands["serve"]):
                words = ["serve", *arguments]
        case [first, second, *rest] if (first, second) in _ALIASES:
            words = [*_ALIASES[first, second].split(), *rest]
        case [first, *rest] if (first,) in _ALIASES:
            words = [*_ALIASES[first,].split(), *rest]
        case [first, *_] if first not in commands and not did_you_mean(first, commands, ""):
            words = ["ask", *arguments]
    return words


def _without_prompt(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _PROMPTS]


def _flags(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts}


def _quoted(word: str) -> str:
    plain = shlex.quote(word)
    return f'"{word}"' if plain == f"'{word}'" and not set(word) & set('"$`!\\') else plain


# ---- commands -------------------------------------------------------------------------------


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
    for name, advice in unknown_variables(settings_commands(context)):
        write_stderr(f"llmstream: {one_line(name)} is no setting; {advice}\n")
    print_help(context)


@app.command(
    cls=SettingsCommand,
    help="Ask one question and stream the answer."
    "\n\nOnly the answer goes to standard output. With no model named, the embedded SmolLM2 "
    "answers: it has 135 million parameters and proves the installation; a larger model "
    "answers well.",
)
@takes
def ask(
    setup: Setup,
    how: AskOptions,
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY]...",
            help="The question. Piped standard input is appended to it, or is the question.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Ask."""
    from llmstream_cli.cli.ask.command import run_ask

    return run_ask(query or [], how, setup)


@app.command(
    cls=SettingsCommand,
    help="Talk with a model: questions and answers by turns."
    "\n\nOn a terminal with an editor for the questions; /help in it lists what can be done. Off "
    "a terminal each line of standard input is a question, and standard output gets the answers.",
)
@takes
def chat(setup: Setup) -> int:
    """Talk."""
    from llmstream_cli.cli.chat.command import run_chat

    return run_chat(setup)


@app.command(
    cls=SettingsCommand,
    help="Make a vector of each text, a line of JSON each."
    "\n\nTexts are compared by the product of their vectors, which have the length 1. A model made "
    "for it embeds best; a model for chat does too.",
)
@takes
def embed(
    how: EmbedOptions,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Texts. Without any, or with -, each line of standard input is one.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Embed."""
    from llmstream_cli.cli.embed import run_embed

    return run_embed(text or [], how)


@app.command(
    cls=SettingsCommand,
    help="Serve models over HTTP: plain text streams, OpenAI's and Ollama's APIs, a page."
    "\n\nThe first model is loaded at the start; others when a request asks for them, as far as "
    "--memory goes."
    "\n\nStandard output gets the server's URL, standard error the log. The first Ctrl-C or "
    "SIGTERM lets answers end for --drain seconds; the second Ctrl-C leaves at once.",
)
@takes
def serve(context: typer.Context, how: ServeOptions) -> int:
    """Serve."""
    from llmstream_cli.cli.serve.run import run_serve

    return run_serve(how, order=context.meta["order"])


@app.command(
    cls=SettingsCommand,
    help="Measure how fast a model answers, for one reader and for many."
    "\n\nA number of streams ask at once: distinct prompts, or such as share a long prefix. It "
    "ends within a minute, unless you say how many streams, runs or seconds. With "
    "--url it measures any server that speaks the OpenAI API by the same means.",
)
@takes
def bench(how: BenchOptions) -> int:
    """Measure."""
    from llmstream_cli.cli.bench.command import run_bench

    return run_bench(how)


@app.command(
    help="Examine this installation and this machine, and tell what to do about what is wrong."
    "\n\nIt has the model answer that `ask` would take. The exit code is 1 if something does not "
    "work."
)
def doctor(json: Json = False) -> int:
    """Examine; return the exit code."""
    from llmstream_cli.cli.doctor import examine

    return examine(json=json)
