"""`llmstream ask`: one question, one answer."""

import contextlib
import sys
import time
from dataclasses import dataclass

from llmstream_cli.cli.find_model import find_model
from llmstream_cli.cli.process import STARTED
from llmstream_cli.cli.prompt import context_message, preset_format, read_template
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.stats import print_settings, print_usage
from llmstream_cli.cli.terminal import (
    AnswerWriter,
    as_utf8,
    complain,
    read_piped_input,
    without_controls,
)
from llmstream_cli.core.api import Engine, EngineConfig, GenerationRequest, Usage
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.resolve import ModelChoice, ResolvedModel
from llmstream_cli.prompts.messages import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the user asked for; see the options of the command for each attribute."""

    words: list[str]
    model: ModelChoice
    system: str | None
    context: str | None
    template: str | None
    raw: bool
    sampling: SamplingOptions
    ctx_size: int | None
    threads: int | None
    gpu_layers: int
    stats: bool
    verbose: bool

    def run(self) -> int:
        """Stream the answer to standard output; return the exit code."""
        self._check_prompt_options()
        chat_format = None if self.template is None else read_template(self.template)
        messages, prompt = ((), self._question()) if self.raw else (self._messages(), None)
        found = find_model(self.model)
        config = EngineConfig(
            model_path=str(found.path),
            ctx_size=found.ctx_size if self.ctx_size is None else self.ctx_size,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            chat_format=chat_format,
            default_chat_format=preset_format(found.chat_format),
        )
        request = GenerationRequest(messages, self.sampling.over(found.sampling), prompt)
        return _run(self, request, config, found)

    def _check_prompt_options(self) -> None:
        if self.system is not None and self.context is not None:
            raise InvalidValueError("--system and --context both give the system message")
        if self.raw and (self.system, self.context, self.template) != (None, None, None):
            raise InvalidValueError(
                "--raw leaves no place for --system, --context or --template; write the prompt out"
            )

    def _messages(self) -> tuple[Message, ...]:
        user = Message("user", self._question())
        if self.context is not None:
            return Message("system", context_message(self.context)), user
        if self.system is not None:
            return Message("system", as_utf8(self.system, "the system message")), user
        return (user,)

    def _question(self) -> str:
        words = as_utf8(" ".join(self.words), "the question")
        question = "\n\n".join(filter(None, (words, read_piped_input(strip=not self.raw))))
        if not (question if self.raw else question.strip()):
            raise InvalidValueError("there is no question; give one or pipe it to standard input")
        return question


def _run(ask: Ask, request: GenerationRequest, config: EngineConfig, found: ResolvedModel) -> int:
    from llmstream_cli.core.engine import InProcessEngine

    if ask.verbose:
        from llmstream_cli.core.llama import set_log_sink

        # The log quotes the model's file, which anyone may have written.
        set_log_sink(lambda text: complain(without_controls(text)))
    writer = AnswerWriter(sys.stdout)
    engine = InProcessEngine(config)
    engine.start()
    import asyncio  # while the model loads

    usage = asyncio.run(_answer(ask, engine, request, found, writer))
    writer.end()
    from llmstream_cli.cli.hint import hint_once  # when nobody waits any more

    hint_once(found, 0.0 if usage is None else usage.tokens_per_second)
    return 0


async def _answer(
    ask: Ask,
    engine: Engine,
    request: GenerationRequest,
    found: ResolvedModel,
    writer: AnswerWriter,
) -> Usage | None:
    first_token_seconds: float | None = None
    try:
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            if ask.stats:
                print_settings(await engine.ready(), request.sampling, found.seconds)
            async for chunk in chunks:
                if first_token_seconds is None and chunk.token_ids:
                    first_token_seconds = time.perf_counter() - STARTED
                writer.write(chunk.text)
    finally:
        await engine.aclose()
    if ask.stats and chunk.usage is not None and chunk.finish_reason is not None:
        writer.end()
        print_usage(chunk.usage, chunk.finish_reason, first_token_seconds)
    return chunk.usage
