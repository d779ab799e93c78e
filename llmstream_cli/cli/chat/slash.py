"""The commands of a chat: lines that begin with a slash. They print to standard error."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from llmstream_cli.cli.chat.talk import Talk
from llmstream_cli.cli.options import SETTABLE
from llmstream_cli.cli.prompt import context_message, known_contexts
from llmstream_cli.cli.terminal import without_controls, write_stderr
from llmstream_cli.errors import InvalidValueError, did_you_mean, one_line

_OFF = "off"  # takes a setting back
_MAX_QUOTED = 60
_LEAVE = ("/exit", "/quit", "/bye")


class _Command(NamedTuple):
    """A command and what /help tells of it."""

    run: Callable[[Talk, str], object]  # with what follows the name
    usage: str
    summary: str


def run_command(talk: Talk, line: str) -> bool:
    """Do what a line commands; return whether the chat goes on.

    Raises:
        InvalidValueError: there is no such command, or it cannot be done so.
        LLMStreamError: it failed; all is as it was.
    """
    name, _, rest = line.strip().partition(" ")
    if name in _LEAVE:
        return False
    command = _COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, [*_COMMANDS, *_LEAVE], "/help lists the commands")
        raise InvalidValueError(f"there is no {name}; {hint}")
    command.run(talk, rest.strip())
    return True


def complete(before: tuple[str, ...]) -> Iterable[str]:
    """Return what a word may be, by the words before it: () begins one, ("/set",) goes on."""
    match before:
        case ():
            return [f"{name} " if " " in known.usage else name for name, known in _COMMANDS.items()]
        case ("/set",):
            return [f"{name} " for name in SETTABLE]
        case ("/show",):
            return _SHOWN
        case ("/context",):
            return known_contexts()
        case ("/model",):
            from llmstream_cli.models.presets import PRESETS

            return PRESETS
        case _:
            return ()


def _say(line: str) -> None:
    write_stderr(without_controls(line) + "\n")


# ---- the commands ---------------------------------------------------------------------------


def _help(_talk: Talk, _rest: str) -> None:
    width = max(len(command.usage) for command in _COMMANDS.values())
    for command in _COMMANDS.values():
        _say(f"{command.usage:{width}}  {command.summary}")
    _say(f"{'/exit':{width}}  leave; so do /quit, /bye and Ctrl-D")
    _say("")
    _say('Alt-Enter breaks a line; so does Enter, between """ and """.')
    _say("Ctrl-R searches what was typed, Ctrl-X Ctrl-E opens an editor.")
    _say("Ctrl-C stops an answer, and keeps what came of it.")
    _say("A space before it sends a line that begins with a slash.")


def _system(talk: Talk, rest: str) -> None:
    if rest:
        talk.conversation.system = None if rest == _OFF else rest
    else:
        _show_system(talk)


def _context(talk: Talk, rest: str) -> None:
    if rest:
        talk.conversation.system = context_message(rest)
        return
    for name, text in known_contexts().items():
        _say(f"{name}: {text}")


def _set(talk: Talk, rest: str) -> None:
    name, _, text = rest.partition(" ")
    name, text = name.lstrip("-").replace("-", "_"), text.strip()
    if not name:
        _show_sampling(talk)
        return
    if name not in SETTABLE:
        raise InvalidValueError(f"there is no setting {name!r}; {did_you_mean(name, SETTABLE)}")
    if not text:
        raise InvalidValueError(f"give a value: /set {name} VALUE, or /set {name} {_OFF}")
    sampling = talk.setup.sampling.changed(**{name: _value(name, text)})
    talk.setup = talk.setup._replace(sampling=sampling)


def _value(name: str, text: str) -> Any:
    kind = SETTABLE[name].kind
    if text == _OFF:
        return None
    if kind is str:
        return [text]
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidValueError(f"{name} has to be {wanted}, not {text!r}") from error


def _show(talk: Talk, rest: str) -> None:
    if rest and rest not in _SHOWN:
        raise InvalidValueError(f"/show knows {', '.join(_SHOWN)}")
    for name in [rest] if rest else ["model", "system", "sampling", "usage"]:
        _SHOWN[name](talk)


def _model(talk: Talk, rest: str) -> None:
    if rest:
        talk.change_model(rest)
    _show_model(talk)


def _undo(talk: Talk, _rest: str) -> None:
    question = talk.undo()
    if question is None:
        raise InvalidValueError("nothing has been said that could be taken back")
    _say(f"took back: {one_line(question, _MAX_QUOTED)}")


def _clear(talk: Talk, _rest: str) -> None:
    talk.clear()
    _say("a new conversation; the system message and the settings stay")


# ---- what /show shows -----------------------------------------------------------------------


def _show_model(talk: Talk) -> None:
    info = talk.ready()
    name = talk.opened.name or info.name
    _say(f"model: {name}" + (f" ({info.description})" if info.description else ""))


def _show_system(talk: Talk) -> None:
    system = talk.conversation.system
    _say("system: " + ("none but what the model's template has" if system is None else system))


def _show_sampling(talk: Talk) -> None:
    sampling = talk.setup.sampling
    in_force = sampling.over(talk.opened.advice(talk.setup.think))
    for name in SETTABLE:
        value = getattr(in_force, name)
        shown = _OFF if value in (None, ()) else " ".join(value) if name == "stop" else value
        _say(f"{name} {shown}" + ("" if name in sampling.unset else "  (set)"))


def _show_usage(talk: Talk) -> None:
    usage = None if talk.last is None else talk.last.usage
    if usage is None:
        _say("tokens: unknown before an answer that came to its end")
        return
    ctx_size = talk.ready().ctx_size
    total = usage.prompt_tokens + usage.completion_tokens
    _say(f"tokens: {total}" + (f" of {ctx_size} that the context holds" if ctx_size else ""))
    _say(
        f"last answer: {usage.completion_tokens} tokens at {usage.tokens_per_second:.1f} a second, "
        f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens reused"
    )


def _show_messages(talk: Talk) -> None:
    if talk.conversation.system is not None:
        _say(f"[system]\n{talk.conversation.system}\n")
    for turn in talk.conversation.turns:
        _say(f"[{turn.role}]\n{turn.content}\n")


_SHOWN: Mapping[str, Callable[[Talk], None]] = {
    "model": _show_model,
    "system": _show_system,
    "sampling": _show_sampling,
    "usage": _show_usage,
    "messages": _show_messages,
}

_COMMANDS: Mapping[str, _Command] = {
    usage.split()[0]: _Command(run, usage, summary)
    for run, usage, summary in (
        (_help, "/help", "list the commands"),
        (_system, "/system [TEXT]", f"show the system message, or set it, or {_OFF}"),
        (_context, "/context [NAME]", "list the named system messages, or set one"),
        (_set, "/set [NAME VALUE]", f"show the sampling, or set it, or {_OFF}"),
        (_show, "/show [WHAT]", "show model, system, sampling, usage, messages"),
        (_model, "/model [NAME]", "show the model, or go on with another"),
        (_undo, "/undo", "take back the last question and its answer"),
        (lambda talk, _rest: talk.retry(), "/retry", "answer the last question again"),
        (_clear, "/clear", "begin a new conversation"),
    )
}
