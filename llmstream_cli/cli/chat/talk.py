"""A chat that goes on: its model, its conversation, its next answer."""

import asyncio
import sys
import time
from dataclasses import dataclass, replace

from llmstream_cli.api import FinishReason, ModelInfo
from llmstream_cli.cli.ask.answer import Answer
from llmstream_cli.cli.ask.engine import OpenEngine, open_engine, with_model
from llmstream_cli.cli.ask.exchange import show_answer
from llmstream_cli.cli.ask.setup import request_for
from llmstream_cli.cli.ask.stats import print_usage
from llmstream_cli.cli.ask.views import make_view
from llmstream_cli.cli.chat.conversation import Conversation
from llmstream_cli.cli.chat.recorder import Recorder
from llmstream_cli.cli.options import EngineOptions, Setup
from llmstream_cli.cli.process import leave_interrupted, run_interruptible
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.terminal import complain
from llmstream_cli.errors import InvalidValueError


@dataclass(slots=True, kw_only=True)
class Talk:
    """A chat that goes on.

    Attributes:
        setup: how it began.
        engine: the options of the model in use.
        opened: the model in use.
        conversation: what was said.
        recorder: keeps it.
        sampling: what the user has set.
        typed: whether a person types the questions: then Ctrl-C ends an answer, and not the chat.
        runner: has the event loop of all answers.
        last: the last answer; None before the first, and when it was taken back.
        unanswered: the last question, if nothing came of it; `retry` asks it again.
    """

    setup: Setup
    engine: EngineOptions
    opened: OpenEngine
    conversation: Conversation
    recorder: Recorder
    sampling: SamplingOptions
    typed: bool
    runner: asyncio.Runner
    last: Answer | None = None
    unanswered: str | None = None

    def ask(self, question: str, *, again: bool = False) -> None:
        """Ask, show the answer, and keep both; also of an answer that is cut, what came of it.

        Args:
            question: what to ask.
            again: the answer takes the place of the last, and is drawn with another seed.

        Raises:
            LLMStreamError: the turn failed.
        """
        self.unanswered = question
        answer = Answer(time.perf_counter())
        try:
            self._show_answer(question, answer, again=again)
        except KeyboardInterrupt:
            if not self.typed:
                leave_interrupted()
            if not answer.text:
                complain("stopped before the answer; /retry asks again\n")
        if answer.finish_reason is not None:
            self._tell_end(answer)
        if self.typed:
            complain("\n")  # a person tells the turns apart

    def retry(self) -> None:
        """Ask the last question again, and draw its answer with another seed.

        If nothing comes of it, the old answer stays.

        Raises:
            InvalidValueError: there is none.
            LLMStreamError: the turn failed.
        """
        if self.unanswered is not None:
            self.ask(self.unanswered)
            return
        before, last = [*self.conversation.turns], self.last
        question = self.conversation.undo()
        if question is None:
            raise InvalidValueError("no question has been asked that could be answered again")
        try:
            self.ask(question, again=True)
        finally:
            if len(self.conversation.turns) < len(before):
                self.conversation.turns, self.last, self.unanswered = before, last, None

    def undo(self) -> str | None:
        """Take back the last question and its answer; return the question, None without one."""
        question = self.conversation.undo()
        if question is not None:
            self.last = self.unanswered = None
            self.recorder.undo()
        return question

    def clear(self) -> None:
        """Begin a new conversation, with the same system message."""
        self.conversation = Conversation(self.conversation.system)
        self.recorder.begin_anew()
        self.last = self.unanswered = None

    def ready(self) -> ModelInfo:
        """Wait until the model is loaded.

        Raises:
            LLMStreamError: it cannot be.
        """
        return self.runner.run(self.opened.engine.ready())

    def change_model(self, name: str) -> ModelInfo:
        """Load another model and go on with it; if that fails, the old one stays.

        Raises:
            LLMStreamError: there is no such model, or it cannot be loaded.
        """
        engine = with_model(self.engine, name)
        opened = open_engine(engine, verbose=self.setup.verbose)
        try:
            info = self.runner.run(opened.engine.ready())
        except BaseException:
            self._close(opened)
            raise
        self._close(self.opened)
        self.engine, self.opened = engine, opened
        return info

    # ---- a turn -----------------------------------------------------------------------------

    def _show_answer(self, question: str, answer: Answer, *, again: bool) -> None:
        setup = self.setup._replace(sampling=self.sampling)
        request = request_for(setup, self.conversation, question, self.opened)
        if again:
            request = replace(request, sampling=replace(request.sampling, seed=None))
        view = make_view(markdown=setup.markdown, reasoning=setup.think is not False)
        run_interruptible(
            self.runner,
            show_answer(self.opened, request, answer, view, stats=setup.shows_stats),
            lambda: self._keep(question, answer, again=again),
        )

    def _keep(self, question: str, answer: Answer, *, again: bool) -> None:
        if not answer.text:
            return
        turns = answer.turns(question, self.opened.reference, self.sampling.said)
        self.conversation.turns += turns
        self.last, self.unanswered = answer, None
        self.recorder.keep(self.conversation.system, turns, again=again)

    def _tell_end(self, answer: Answer) -> None:
        if self.setup.shows_stats:
            print_usage(answer)
        usage, most = answer.usage, self.sampling.said.get("max_tokens")
        cut = answer.finish_reason is FinishReason.LENGTH and usage is not None
        if cut and usage is not None and (most is None or usage.completion_tokens < most):
            complain(
                "llmstream: the context is full, which ended the answer; "
                "/undo takes back the last turn, /clear begins anew\n"
            )
        if not self.typed and not answer.text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _close(self, opened: OpenEngine) -> None:
        self.runner.run(opened.engine.aclose())
