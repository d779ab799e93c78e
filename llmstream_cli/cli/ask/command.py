"""`llmstream ask`: one question, one answer."""

import sys
from collections.abc import Sequence

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
    with whole_question(words, how) as question:
        opened, conversation = begin(setup)
        if how.raw:
            params = setup.sampling.over(opened.advice())
            request = GenerationRequest(
                sampling=params, prompt=question, unset=setup.sampling.unset
            )
        else:
            request = request_for(setup, opened, conversation, question)
        if how.count_tokens:
            return _count(opened, request)

        import asyncio  # this and the rest while the model loads

        from llmstream_cli.cli.ask.answer import Answer, print_usage
        from llmstream_cli.cli.ask.view import make_view, show_answer

        answer = Answer(STARTED)
        view = make_view(markdown=setup.markdown, reasoning=setup.think is not False, how=how)

        def keep() -> None:
            if answer.text:
                conversation.keep(answer.turns(question, opened.reference, setup.sampling.said))

        with asyncio.Runner() as runner:
            try:
                answering = show_answer(opened, request, answer, view, stats=setup.shows_stats)
                run_interruptible(runner, answering, keep)
            except KeyboardInterrupt:
                leave_interrupted()  # before the runner waits for a model that is being loaded
            finally:
                runner.run(opened.engine.aclose())
        if setup.shows_stats:
            print_usage(answer)
        return 0


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
    if how.count_tokens and setup.engine.url is not None:
        raise InvalidValueError("--count needs the model itself; not with --url")


def _count(opened: OpenEngine, request: GenerationRequest) -> int:
    import asyncio  # while the model loads

    from llmstream_cli.engines.in_process import InProcessEngine

    assert isinstance(opened.engine, InProcessEngine)  # checked above
    sys.stdout.write(f"{asyncio.run(opened.engine.count_tokens(request))}\n")
    return 0
