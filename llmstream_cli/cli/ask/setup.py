"""The begin of `ask` and `chat`: the conversation, and the model that goes on with it.

What shows and keeps answers is imported while the model loads, or the first token waited for it.
"""

from typing import TYPE_CHECKING, NamedTuple

from llmstream_cli.api import GenerationRequest
from llmstream_cli.cli.ask.engine import OpenEngine, open_again, open_engine
from llmstream_cli.cli.options import EngineOptions, Setup
from llmstream_cli.cli.prompt import context_message
from llmstream_cli.errors import InvalidValueError

if TYPE_CHECKING:
    from llmstream_cli.cli.chat.conversation import Conversation
    from llmstream_cli.cli.chat.recorder import Recorder


class Begun(NamedTuple):
    """A conversation, and who goes on with it.

    Attributes:
        conversation: what was said before.
        recorder: keeps what is said now.
        engine: the options of the model.
        opened: the model, which may still be loading.
    """

    conversation: "Conversation"
    recorder: "Recorder"
    engine: EngineOptions
    opened: OpenEngine


def begin(setup: Setup) -> Begun:
    """Find the conversation, open the model, and return while it is being loaded.

    Raises:
        LLMStreamError: there is no such conversation, context or model.
    """
    system = _system_message(setup.system, setup.context)
    engine, opened = setup.engine, None
    if not setup.record.goes_on:
        opened = open_engine(engine, verbose=setup.verbose)
    from llmstream_cli.cli.chat.recorder import resume

    resumed = resume(setup.record)
    if opened is None:
        engine, opened = open_again(engine, resumed.model, verbose=setup.verbose)
    if system is not None:
        resumed.conversation.system = system
    return Begun(resumed.conversation, resumed.recorder, engine, opened)


def request_for(
    setup: Setup, conversation: "Conversation", question: str, opened: OpenEngine
) -> GenerationRequest:
    """Return what the engine is asked to answer the next question of a conversation."""
    return GenerationRequest(
        conversation.asking(question),
        setup.sampling.over(opened.advice(setup.think)),
        unset=setup.sampling.unset,
        thinking=setup.think,
    )


def _system_message(system: str | None, context: str | None) -> str | None:
    """Return the system message that `--system` or `--context` gives; None where neither does.

    Raises:
        InvalidValueError: both do, or the context is unknown.
    """
    if system is not None and context is not None:
        raise InvalidValueError("--system and --context both give the system message")
    return system if context is None else context_message(context)
