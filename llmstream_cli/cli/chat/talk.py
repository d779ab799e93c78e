"""A chat that goes on: its model, its conversation, its next answer."""

import asyncio
import sys
import time
from dataclasses import replace

from llmstream_cli.api import FinishReason, GenerationRequest, ModelInfo
from llmstream_cli.cli.ask.answer import Answer, print_usage
from llmstream_cli.cli.ask.engine import OpenEngine, open_engine, request_for, with_model
from llmstream_cli.cli.ask.options import Setup
from llmstream_cli.cli.ask.tools import Toolbox
from llmstream_cli.cli.ask.view import make_view, show_answer
from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.process import leave_interrupted, run_interruptible
from llmstream_cli.cli.terminal import write_stderr
from llmstream_cli.errors import InvalidValueError


class Talk:
    """A chat that goes on.

    Args:
        setup: what the user said; `/set` replaces its sampling.
        opened: the model in use; `/model` replaces it.
        conversation: what was said.
        runner: has the event loop of all answers.
        typed: whether a person types the questions: then Ctrl-C ends an answer, and not the chat.
    """

    def __init__(
        self,
        setup: Setup,
        opened: OpenEngine,
        conversation: Conversation,
        runner: asyncio.Runner,
        *,
        typed: bool,
    ) -> None:
        self.setup = setup
        self.opened = opened
        self.conversation = conversation
        self._runner = runner
        self._typed = typed
        self._toolbox = Toolbox(setup.tools)
        self.last: Answer | None = None  # None before the first, and when it was taken back
        self._unanswered: str | None = None  # the last question, if nothing came of it

    def ask(self, question: str, *, again: bool = False) -> None:
        """Ask, show the answer, and keep both; also of an answer that is cut, what came of it.

        Args:
            question: what to ask.
            again: the answer takes the place of the last, and is drawn with another seed.

        Raises:
            LLMStreamError: the turn failed.
        """
        self._unanswered = None if again else question
        setup, toolbox, answer = self.setup, self._toolbox, Answer(time.perf_counter())
        request = request_for(
            setup, self.opened, self.conversation, question, again=again, tools=toolbox.tools
        )
        if again:
            request = replace(request, sampling=replace(request.sampling, seed=None))
        asked: GenerationRequest | None = request

        def keep() -> None:
            if answer.text and not answer.calls:
                turns = answer.turns(question, self.opened.reference, setup.sampling.said)
                self.last, self._unanswered = answer, None
                self.conversation.keep(turns, again=again)

        try:
            while asked is not None:
                answer = Answer(time.perf_counter())
                view = make_view(markdown=setup.markdown, reasoning=setup.think is not False)
                stats = setup.shows_stats and asked is request
                answering = show_answer(self.opened, asked, answer, view, stats=stats)
                run_interruptible(self._runner, answering, keep)
                asked = toolbox.go_on(asked, answer)
        except KeyboardInterrupt:
            if not self._typed:
                leave_interrupted()
            if not answer.text:
                write_stderr("stopped before the answer; /retry asks again\n")
        if answer.finish_reason is not None:
            self._tell_end(answer)
        if self._typed:
            write_stderr("\n")  # a person tells the turns apart

    def retry(self) -> None:
        """Ask the last question again; if nothing comes of it, the old answer stays.

        Raises:
            InvalidValueError: there is none.
            LLMStreamError: the turn failed.
        """
        if self._unanswered is not None:
            self.ask(self._unanswered)
        elif (question := self.conversation.last_question) is not None:
            self.ask(question, again=True)
        else:
            raise InvalidValueError("no question has been asked that could be answered again")

    def undo(self) -> str | None:
        """Take back the last question and its answer; return the question, None without one."""
        question = self.conversation.undo()
        if question is not None:
            self.last = self._unanswered = None
        return question

    def clear(self) -> None:
        """Begin a new conversation, with the same system message."""
        self.conversation.clear()
        self.last = self._unanswered = None

    def ready(self) -> ModelInfo:
        """Wait until the model is loaded."""
        return self._runner.run(self.opened.engine.ready())

    def change_model(self, name: str) -> None:
        """Load another model and go on with it; if that fails, the old one stays.

        Raises:
            LLMStreamError: there is no such model, or it cannot be loaded.
        """
        options = with_model(self.opened.options, name)
        opened = open_engine(options, verbose=self.setup.verbose)
        unused = opened
        try:
            self._runner.run(opened.engine.ready())
            unused, self.opened = self.opened, opened
        finally:
            self._runner.run(unused.engine.aclose())

    def _tell_end(self, answer: Answer) -> None:
        if self.setup.shows_stats:
            print_usage(answer)
        usage, most = answer.usage, self.setup.sampling.said.get("max_tokens")
        cut = answer.finish_reason is FinishReason.LENGTH and usage is not None
        if cut and usage is not None and (most is None or usage.completion_tokens < most):
            write_stderr(
                "llmstream: the context is full, which ended the answer; "
                "/undo takes back the last turn, /clear begins anew\n"
            )
        if not self._typed and not answer.text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()
