"""A question asked and its answer shown, with all that is seen on the way; for `ask` and `chat`."""

import sys
from asyncio import CancelledError
from dataclasses import replace

from llmstream_cli.api import Chunk, GenerationRequest
from llmstream_cli.cli.ask.answer import Answer, receive
from llmstream_cli.cli.ask.engine import OpenEngine
from llmstream_cli.cli.ask.stats import print_settings
from llmstream_cli.cli.ask.views import View
from llmstream_cli.cli.ask.waiting import WaitingLine
from llmstream_cli.cli.terminal import shows_sequences
from llmstream_cli.errors import LLMStreamError


async def show_answer(
    opened: OpenEngine, request: GenerationRequest, answer: Answer, view: View, *, stats: bool
) -> None:
    """Wait for the model, ask it, and show its answer as it comes.

    On a terminal, standard error tells what is waited for, until the first token.

    Args:
        opened: the model, which may still be loading.
        request: what to ask.
        answer: takes what comes.
        view: shows it.
        stats: print what the answer is made with, before it.

    Raises:
        LLMStreamError: the model cannot be loaded, or the answer failed; what came is shown.
        CancelledError: Ctrl-C has ended it; what came is shown.
    """
    waiting = WaitingLine(sys.stderr)

    def show(chunk: Chunk) -> None:
        if chunk.progress is not None:
            waiting.follow(chunk.progress)
        elif chunk.text or chunk.finish_reason or (chunk.reasoning and view.shows_reasoning):
            waiting.end()
        elif chunk.reasoning == answer.reasoning != "":  # the first of it
            waiting.begin("thinking")
        view.show(chunk)

    try:
        waiting.begin("loading the model" if opened.local else "waiting for the server")
        info = await opened.engine.ready()
        answer.model = opened.name or info.name
        if stats and opened.found is not None:  # else they are the server's own
            waiting.end()
            print_settings(info, request.sampling, opened.found.seconds)
        waiting.begin("reading the prompt")
        if shows_sequences(sys.stderr):
            request = replace(request, report_progress=True)
        await receive(opened.engine, request, answer, show)
    except (LLMStreamError, CancelledError) as error:
        waiting.end()
        if answer.text or isinstance(error, CancelledError):
            view.end(answer)
        raise
    finally:
        waiting.end()
    view.end(answer)
