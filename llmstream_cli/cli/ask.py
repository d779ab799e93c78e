"""`llmstream ask`: one question, one answer."""

import sys
from dataclasses import dataclass

from llmstream_cli.cli.answer import Answer, receive
from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.engine_options import EngineOptions, OpenEngine
from llmstream_cli.cli.hint import hint_once
from llmstream_cli.cli.process import STARTED, on_interrupt, write_last
from llmstream_cli.cli.question import Question, system_message
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.stats import print_settings, print_usage
from llmstream_cli.cli.views import View, ViewOptions
from llmstream_cli.core.api import GenerationRequest
from llmstream_cli.errors import InvalidValueError, LLMStreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user asked for; see the options of the command for each attribute."""

    question: Question
    engine: EngineOptions
    system: str | None
    context: str | None
    sampling: SamplingOptions
    view: ViewOptions
    count: bool
    stats: bool

    def run(self) -> int:
        """Stream the answer to standard output; return the exit code."""
        self._check()
        if self.question.is_absent and not self._is_for_one_question:
            return self._chat()
        conversation = Conversation(system_message(self.system, self.context))
        question = self.question.text()
        opened = self.engine.open()
        request = self._request(opened, conversation, question)
        return self._count(opened, request) if self.count else self._answer(opened, request)

    def _check(self) -> None:
        given = (self.system, self.context, self.engine.template)
        if self.question.raw and given != (None, None, None):
            raise InvalidValueError(
                "--raw leaves no place for --system, --context or --template; write the prompt out"
            )
        if self.count and self.engine.url is not None:
            raise InvalidValueError("--count needs the model itself; not with --url")

    @property
    def _is_for_one_question(self) -> bool:
        sampling, view = self.sampling, self.view
        constrained = sampling.grammar is not None or sampling.json_schema is not None
        return self.question.raw or self.count or constrained or view.json or view.json_lines

    def _chat(self) -> int:
        from llmstream_cli.cli.chat import Chat

        return Chat(
            engine=self.engine,
            system=self.system,
            context=self.context,
            sampling=self.sampling,
            view=self.view,
            stats=self.stats,
        ).run()

    def _request(
        self, opened: OpenEngine, conversation: Conversation, question: str
    ) -> GenerationRequest:
        sampling, unset = self.sampling.over(opened.sampling), self.sampling.unset
        if self.question.raw:
            return GenerationRequest(sampling=sampling, prompt=question, unset=unset)
        return GenerationRequest(conversation.asking(question), sampling, unset=unset)

    def _count(self, opened: OpenEngine, request: GenerationRequest) -> int:
        import asyncio  # while the model loads

        assert opened.local is not None  # checked above
        sys.stdout.write(f"{asyncio.run(opened.local.count_tokens(request))}\n")
        return 0

    def _answer(self, opened: OpenEngine, request: GenerationRequest) -> int:
        import asyncio  # while the model loads

        answer, view = Answer(STARTED), self.view.make()

        with on_interrupt(lambda: write_last(view.last_words(answer))):
            asyncio.run(self._receive(opened, request, answer, view))
        if self.stats:
            print_usage(answer)
        if opened.found is not None:
            hint_once(opened.found)
        return 0

    async def _receive(
        self, opened: OpenEngine, request: GenerationRequest, answer: Answer, view: View
    ) -> None:
        try:
            info = await opened.engine.ready()
            answer.model = opened.name or info.name
            if self.stats and opened.found is not None:  # else they are the server's own
                print_settings(info, request.sampling, opened.found.seconds)
            await receive(opened.engine, request, answer, view.show)
        except LLMStreamError:
            if answer.text:
                view.end(answer)
            raise
        finally:
            await opened.engine.aclose()
        view.end(answer)
