"""`llmstream ask`: one question, one answer."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmstream_cli.api import GenerationRequest
from llmstream_cli.cli.engine_options import OpenEngine
from llmstream_cli.cli.process import STARTED, at_end, on_interrupt, write_last
from llmstream_cli.cli.question import Question
from llmstream_cli.cli.setup import Begun, Setup
from llmstream_cli.errors import InvalidValueError

if TYPE_CHECKING:
    from llmstream_cli.cli.answer import Answer
    from llmstream_cli.cli.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user asked for; see the options of the command for each attribute."""

    setup: Setup
    question: Question
    count: bool

    def run(self) -> int:
        """Stream the answer to standard output; return the exit code."""
        self._check()
        if self.question.is_absent and not self._is_for_one_question:
            from llmstream_cli.cli.chat import Chat

            return Chat(setup=self.setup).run()
        with self.question.written() as question:
            begun = self.setup.begin()
            request = self._request(begun, question)
            if self.count:
                return self._count(begun.opened, request)
            return self._answer(begun, request, question)

    def _check(self) -> None:
        setup = self.setup
        given = (setup.system, setup.context, setup.engine.template)
        if self.question.raw and given != (None, None, None):
            raise InvalidValueError(
                "--raw leaves no place for --system, --context or --template; write the prompt out"
            )
        if self.question.raw and (setup.record.continues or setup.record.session is not None):
            raise InvalidValueError("--raw goes on with no conversation; write the prompt out")
        if self.question.raw and setup.think is not None:
            raise InvalidValueError("--raw leaves --think and --no-think to the prompt")
        if setup.sampling.json_schema is not None and setup.engine.url is None:
            from llmstream_cli.cli.structured import check_schema

            check_schema(setup.sampling.json_schema)
        if self.count and setup.engine.url is not None:
            raise InvalidValueError("--count needs the model itself; not with --url")

    @property
    def _is_for_one_question(self) -> bool:
        sampling, view = self.setup.sampling, self.setup.view
        constrained = sampling.grammar is not None or sampling.json_schema is not None
        return self.question.raw or self.count or constrained or view.json or view.json_lines

    def _request(self, begun: Begun, question: str) -> GenerationRequest:
        sampling, opened = self.setup.sampling, begun.opened
        if not self.question.raw:
            return self.setup.request(begun.conversation, question, opened)
        params = sampling.over(opened.sampling)
        return GenerationRequest(sampling=params, prompt=question, unset=sampling.unset)

    def _count(self, opened: OpenEngine, request: GenerationRequest) -> int:
        import asyncio  # while the model loads

        assert opened.local is not None  # checked above
        sys.stdout.write(f"{asyncio.run(opened.local.count_tokens(request))}\n")
        return 0

    def _answer(self, begun: Begun, request: GenerationRequest, question: str) -> int:
        import asyncio  # this and the rest while the model loads

        from llmstream_cli.cli.answer import Answer
        from llmstream_cli.cli.stats import print_usage

        answer, view = Answer(STARTED), self.setup.view.make()

        def keep() -> None:
            if answer.text:
                turns = answer.turns(question, begun.opened.reference, self.setup.sampling.said)
                begun.recorder.keep(begun.conversation.system, turns)

        with at_end(keep), on_interrupt(lambda: write_last(view.last_words(answer))):
            asyncio.run(self._receive(begun.opened, request, answer, view))
        if self.setup.stats:
            print_usage(answer)
        if begun.opened.found is not None:
            from llmstream_cli.cli.hint import hint_once  # when nobody waits any more

            hint_once(begun.opened.found, answer.tokens_per_second)
        return 0

    async def _receive(
        self, opened: OpenEngine, request: GenerationRequest, answer: "Answer", view: "View"
    ) -> None:
        from llmstream_cli.cli.exchange import show_answer

        try:
            await show_answer(opened, request, answer, view, stats=self.setup.stats)
        finally:
            await opened.engine.aclose()
