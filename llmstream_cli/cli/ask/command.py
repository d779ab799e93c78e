"""`llmstream ask`: one question, one answer."""

import sys
from collections.abc import Sequence

from llmstream_cli.api import GenerationRequest
from llmstream_cli.cli.ask.engine import OpenEngine, check_engine
from llmstream_cli.cli.ask.question import nobody_asks, whole_question
from llmstream_cli.cli.ask.setup import Begun, begin, request_for
from llmstream_cli.cli.options import AskOptions, Setup
from llmstream_cli.cli.process import STARTED, leave_interrupted, run_interruptible
from llmstream_cli.errors import InvalidValueError


def run_ask(words: Sequence[str], how: AskOptions, setup: Setup) -> int:
    """Stream the answer to standard output; return the exit code.

    Args:
        words: of the question.
        how: what the user said for one question.
        setup: what the user said as for a chat.
    """
    check_engine(setup.engine)
    setup = _with_form(how, setup)
    _check(how, setup)
    if nobody_asks(words, how) and not _is_for_one_question(how):
        from llmstream_cli.cli.chat.command import run_chat

        return run_chat(setup)
    with whole_question(words, how) as question:
        begun = begin(setup)
        if how.raw:
            params = setup.sampling.over(begun.opened.advice())
            unset = setup.sampling.unset
            request = GenerationRequest(sampling=params, prompt=question, unset=unset)
        else:
            request = request_for(setup, begun.conversation, question, begun.opened)
        if how.count_tokens:
            return _count(begun.opened, request)
        return _answer(setup, how, begun, request, question)


def _with_form(how: AskOptions, setup: Setup) -> Setup:
    """Add the form that the answer has to have to what is said of sampling."""
    if how.grammar is None and how.schema is None:
        return setup
    from llmstream_cli.cli.ask.structured import check_schema, read_grammar, read_schema

    grammar = None if how.grammar is None else read_grammar(how.grammar)
    schema = None if how.schema is None else read_schema(how.schema)
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


def _is_for_one_question(how: AskOptions) -> bool:
    has_form = how.grammar is not None or how.schema is not None
    return how.raw or how.count_tokens or has_form or how.json or how.json_lines


def _count(opened: OpenEngine, request: GenerationRequest) -> int:
    import asyncio  # while the model loads

    assert opened.local is not None  # checked above
    sys.stdout.write(f"{asyncio.run(opened.local.count_tokens(request))}\n")
    return 0


def _answer(
    setup: Setup, how: AskOptions, begun: Begun, request: GenerationRequest, question: str
) -> int:
    import asyncio  # this and the rest while the model loads

    from llmstream_cli.cli.ask.answer import Answer
    from llmstream_cli.cli.ask.exchange import show_answer
    from llmstream_cli.cli.ask.stats import print_usage
    from llmstream_cli.cli.ask.views import make_view

    answer = Answer(STARTED)
    view = make_view(markdown=setup.markdown, reasoning=setup.think is not False, how=how)

    def keep() -> None:
        if answer.text:
            turns = answer.turns(question, begun.opened.reference, setup.sampling.said)
            begun.recorder.keep(begun.conversation.system, turns)

    with asyncio.Runner() as runner:
        try:
            answering = show_answer(begun.opened, request, answer, view, stats=setup.shows_stats)
            run_interruptible(runner, answering, keep)
        except KeyboardInterrupt:
            leave_interrupted()  # before the runner waits for a model that is being loaded
        finally:
            runner.run(begun.opened.engine.aclose())
    if setup.shows_stats:
        print_usage(answer)
    return 0
