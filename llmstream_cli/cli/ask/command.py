"""`llmstream ask`: one question, one answer."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmstream_cli.api import GenerationRequest
from llmstream_cli.cli.ask.engine import OpenEngine, begin, check_engine, request_for
from llmstream_cli.cli.ask.options import AskOptions, Setup
from llmstream_cli.cli.ask.question import (
    check_schema,
    has_no_question,
    read_grammar,
    read_schema,
    whole_question,
)
from llmstream_cli.cli.process import STARTED, leave_interrupted, run_interruptible
from llmstream_cli.errors import InvalidValueError

if TYPE_CHECKING:
    from llmstream_cli.cli.ask.tools import Toolbox


def run_ask(words: Sequence[str], how: AskOptions, setup: Setup) -> int:
    """Stream the answer to standard output; return the exit code."""
    check_engine(setup.engine)
    setup = _with_form(how, setup)
    _check(how, setup)
    has_form = how.grammar is not None or how.schema is not None
    is_for_a_chat = not (how.raw or how.count_tokens or has_form or how.json or how.json_lines)
    if is_for_a_chat and has_no_question(words, how):
        from llmstream_cli.cli.chat.command import run_chat

        return run_chat(setup)
    toolbox = open_toolbox(setup)
    with whole_question(words, how) as question:
        opened, conversation = begin(setup)
        if how.raw:
            params = setup.sampling.over(opened.advice())
            request = GenerationRequest(
                sampling=params, prompt=question, unset=setup.sampling.unset
            )
        else:
            tools = () if toolbox is None else toolbox.tools
            request = request_for(setup, opened, conversation, question, tools=tools)
        if how.count_tokens:
            return _count(opened, request)

        import asyncio  # this and the rest while the model loads

        from llmstream_cli.cli.ask.answer import Answer, print_usage
        from llmstream_cli.cli.ask.view import make_view, show_answer

        def keep() -> None:
            if answer.text and not answer.calls:
                conversation.keep(answer.turns(question, opened.reference, setup.sampling.said))

        asked: GenerationRequest | None = request
        with asyncio.Runner() as runner:
            try:
                while asked is not None:
                    answer = Answer(STARTED if asked is request else time.perf_counter())
                    thinks = setup.think is not False
                    view = make_view(markdown=setup.markdown, reasoning=thinks, how=how)
                    stats = setup.shows_stats and asked is request
                    answering = show_answer(opened, asked, answer, view, stats=stats)
                    run_interruptible(runner, answering, keep)
                    asked = None if toolbox is None else toolbox.go_on(asked, answer)
            except KeyboardInterrupt:
                leave_interrupted()  # before the runner waits for a model that is being loaded
            finally:
                runner.run(opened.engine.aclose())
        if setup.shows_stats:
            print_usage(answer)
        return 0


def open_toolbox(setup: Setup) -> "Toolbox | None":
    """Return the functions of `--tool`; pydantic is imported where there are some."""
    if not setup.tools.tool:
        return None
    from llmstream_cli.cli.ask.tools import Toolbox

    return Toolbox(setup.tools)


def _with_form(how: AskOptions, setup: Setup) -> Setup:
    """Add the form that the answer has to have to what is said of sampling."""
    grammar = None if how.grammar is None else read_grammar(how.grammar)
    schema = None if how.schema is None else read_schema(how.schema)
    if grammar is None and schema is None:
        return setup
    sampling = setup.sampling.changed(grammar=grammar, json_schema=schema)
    if schema is not None and setup.engine.url is None:
        check_schema(schema)
    return setup._replace(sampling=sampling)


def _check(how: AskOptions, setup: Setup) -> None:
    if how.json and how.json_lines:
        raise InvalidValueError("--json and --json-lines exclude each other")
    if how.raw and (setup.system, setup.context, setup.engine.template) != (None, None, None):
        raise InvalidValueError(
            "--raw leaves no place for --system, --context or --template; write the prompt out"
        )
    if how.raw and setup.record.goes_on:
        raise InvalidValueError("--raw goes on with no conversation; write the prompt out")
    if how.raw and setup.think is not None:
        raise InvalidValueError("--raw leaves --think and --no-think to the prompt")
    if setup.tools.tool and (how.raw or how.json or how.json_lines):
        raise InvalidValueError("--tool goes with neither --raw, --json nor --json-lines")
    if how.count_tokens and setup.engine.url is not None:
        raise InvalidValueError("--count needs the model itself; not with --url")


def _count(opened: OpenEngine, request: GenerationRequest) -> int:
    import asyncio  # while the model loads

    from llmstream_cli.engines.in_process import InProcessEngine

    assert isinstance(opened.engine, InProcessEngine)  # checked above
    sys.stdout.write(f"{asyncio.run(opened.engine.count_tokens(request))}\n")
    return 0
