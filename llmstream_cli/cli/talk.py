"""A chat that goes on: its model, its conversation, its next answer."""

import asyncio
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from llmstream_cli.api import FinishReason, ModelInfo
from llmstream_cli.cli.answer import Answer
from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.engine_options import EngineOptions, OpenEngine
from llmstream_cli.cli.exchange import show_answer
from llmstream_cli.cli.process import at_end, on_interrupt, write_last
from llmstream_cli.cli.recording import Recorder
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.setup import Setup
from llmstream_cli.cli.stats import print_usage
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
        file: that the conversation was saved in, or loaded from.
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
    file: Path | None = None
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
            with at_end(lambda: self._keep(question, answer, again=again)):
                self._show_answer(question, answer, again=again)
        except KeyboardInterrupt:
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
        self.go_on(Conversation(self.conversation.system))

    def go_on(self, conversation: Conversation) -> None:
        """Go on with another conversation, which is kept as one of its own."""
        self.conversation = conversation
        self.recorder.begin_anew(conversation.turns)
        self.last = self.unanswered = self.file = None

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
        engine = self.engine.with_model(name)
        opened = engine.open()
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
        setup = replace(self.setup, sampling=self.sampling)
        request = setup.request(self.conversation, question, self.opened)
        if again:
            request = replace(request, sampling=replace(request.sampling, seed=None))
        view = setup.view.make()
        try:
            with on_interrupt(lambda: write_last(view.last_words(answer))):
                self.runner.run(show_answer(self.opened, request, answer, view, stats=setup.stats))
        except KeyboardInterrupt:
            write_last(view.last_words(answer))
            raise

    def _keep(self, question: str, answer: Answer, *, again: bool) -> None:
        if not answer.text:
            return
        turns = answer.turns(question, self.opened.reference, self.sampling.said)
        self.conversation.turns += turns
        self.last, self.unanswered = answer, None
        self.recorder.keep(self.conversation.system, turns, again=again)

    def _tell_end(self, answer: Answer) -> None:
        if self.setup.stats:
            print_usage(answer)
        usage, most = answer.usage, self.sampling.max_tokens
        cut = answer.finish_reason is FinishReason.LENGTH and usage is not None
        if cut and usage is not None and (most is None or usage.completion_tokens < most):
            complain(
                "llmstream: the context is full, which ended the answer; "
                "/undo takes back the last turn, /clear begins anew\n"
            )
        if self.typed and self.opened.found is not None:
            from llmstream_cli.cli.hint import hint_once  # when nobody waits any more

            hint_once(self.opened.found, answer.tokens_per_second)
        if not self.typed and not answer.text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _close(self, opened: OpenEngine) -> None:
        self.runner.run(opened.engine.aclose())
