"""`llmstream bench`: how fast a model answers, for one reader and for many."""

import contextlib
import itertools
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.cli.bench_figures import (
    MIN_PROMPT_TOKENS,
    Answer,
    Cost,
    Prefix,
    Run,
    build_prompts,
    evaluate,
)
from llmstream_cli.cli.bench_progress import Plan, Progress
from llmstream_cli.cli.bench_report import Parameters, Report, as_json, as_lines, print_table
from llmstream_cli.cli.find_model import find_model
from llmstream_cli.cli.process import INTERRUPTED
from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.cli.terminal import AnswerWriter, discard_output
from llmstream_cli.core.cpu import default_threads
from llmstream_cli.errors import EngineError, InvalidValueError, LLMStreamError
from llmstream_cli.models.resolve import ModelChoice
from llmstream_cli.prompts.messages import Message

PrefixOption = Literal["distinct", "shared", "both"]

_MAX_STREAMS = 256

# Where the user says neither how many streams nor how many runs.
_SECONDS = 50.0  # which leaves some of a minute to load the model

_STREAMS = "1,2,4,8,16,32"
_REPEAT = 3

_PREFIXES: dict[PrefixOption, tuple[Prefix, ...]] = {
    "distinct": ("distinct",),
    "shared": ("shared",),
    "both": ("distinct", "shared"),
}

# What a chat template puts around a prompt, and how far off "about" can be.
_TEMPLATE_TOKENS = 64
_INEXACTNESS = 1.25


class Target(Protocol):
    """What is measured: an engine in this process, or a server."""

    async def ready(self) -> str:
        """Wait until requests can be made; return the model's name."""

    def stream(self, prompt: str) -> AsyncGenerator[str | Cost]:
        """Yield an answer's pieces of text as they come and, if it is reported, what it cost."""

    async def aclose(self) -> None:
        """Release what it holds."""


class InProcessTarget:
    """The engine of this program, as `ask` drives it.

    Args:
        config: the model and the sizes.
        max_tokens: length of an answer at most.
    """

    def __init__(self, config: EngineConfig, max_tokens: int) -> None:
        from llmstream_cli.engines.in_process import InProcessEngine

        self._sampling = SamplingParams(temperature=0.0, repeat_penalty=1.0, max_tokens=max_tokens)
        self._engine = InProcessEngine(config)
        self._engine.start()

    async def ready(self) -> str:
        """Wait until the model is loaded; see `Target.ready`."""
        return (await self._engine.ready()).name

    async def stream(self, prompt: str) -> AsyncGenerator[str | Cost]:
        """Stream an answer; see `Target.stream`."""
        request = GenerationRequest((Message("user", prompt),), self._sampling)
        async with contextlib.aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield chunk.text
                if (usage := chunk.usage) is not None:
                    yield Cost(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)

    async def aclose(self) -> None:
        """Release the model."""
        await self._engine.aclose()


OpenTarget = Callable[[int], Target]  # for so many streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What the user asked for; see the options of the command for each attribute."""

    model: ModelChoice
    template: str | None
    url: str | None
    url_model: str | None
    api_key: str | None
    streams: str | None
    prefix: PrefixOption
    prompt_tokens: int
    max_tokens: int
    ctx_size: int | None
    threads: int | None
    repeat: int | None
    seconds: float | None
    seed: int | None
    json: bool

    def run(self) -> int:
        """Measure, and print the report to standard output; return the exit code.

        Raises:
            EngineError: requests failed; the report, with what was measured, is printed.
        """
        self._check()
        if self.url is None:
            report, open_target = self._in_process()
        else:
            report, open_target = self._at_url(self.url)
        writer = AnswerWriter(sys.stdout)
        try:
            code = _measure_until_interrupted(report, open_target)
        except LLMStreamError:
            if report.runs:
                self._print(report, writer)
            raise
        self._print(report, writer)
        if report.errors and not code:
            raise EngineError(f"{len(report.errors)} requests failed, first: {report.errors[0]}")
        return code

    def _check(self) -> None:
        """Refuse options that do not go together, and numbers out of their bounds."""
        if self.url is not None and self.model != ModelChoice():
            raise InvalidValueError("--url measures the server's own model; name none with it")
        if self.url is None and self.url_model is not None:
            raise InvalidValueError("--url-model needs --url")
        if self.url is not None and (self.ctx_size, self.threads, self.template) != (None,) * 3:
            raise InvalidValueError(
                "--ctx-size, --threads and --template are the server's; not with --url"
            )
        for name, value, low, high in (
            ("prompt-tokens", self.prompt_tokens, MIN_PROMPT_TOKENS, 1_000_000),
            ("max-tokens", self.max_tokens, 1, 1_000_000),
            ("repeat", self.repeat, 1, 1000),
            ("seconds", self.seconds, 0, 1_000_000),
            ("seed", self.seed, 0, 2**32 - 1),
        ):
            if value is not None and not low <= value <= high:
                raise InvalidValueError(f"--{name} must be between {low} and {high}")

    def _in_process(self) -> tuple[Report, OpenTarget]:
        chat_format = None if self.template is None else read_template(self.template)
        found = find_model(self.model)
        ctx_size = self._enough_context() if self.ctx_size is None else self.ctx_size
        threads = default_threads() if self.threads is None else self.threads

        def open_target(streams: int) -> Target:
            config = EngineConfig(
                model_path=str(found.path),
                ctx_size=ctx_size,
                threads=self.threads,
                max_seqs=streams,
                chat_format=chat_format,
                default_chat_format=preset_format(found.chat_format),
            )
            return InProcessTarget(config, self.max_tokens)

        seed = 0 if self.seed is None else self.seed
        return Report(self._parameters(seed, ctx_size, threads), url=None), open_target

    def _at_url(self, url: str) -> tuple[Report, OpenTarget]:
        from llmstream_cli.cli.bench_client import OpenAIClient
        from llmstream_cli.engines.openai_client import base_url

        def open_target(_streams: int) -> Target:
            return OpenAIClient(
                url, model=self.url_model, max_tokens=self.max_tokens, api_key=self.api_key
            )

        # A server outlives the benchmark: the prompts of the last one may still be in its cache.
        seed = secrets.randbelow(2**32) if self.seed is None else self.seed
        return Report(self._parameters(seed), url=base_url(url)), open_target

    def _parameters(
        self, seed: int, ctx_size: int | None = None, threads: int | None = None
    ) -> Parameters:
        is_open = self.streams is None and self.repeat is None
        seconds = (_SECONDS if is_open else 0.0) if self.seconds is None else self.seconds
        return Parameters(
            streams=parse_streams(_STREAMS if self.streams is None else self.streams),
            prefixes=_PREFIXES[self.prefix],
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            repeat=self.repeat or (1 if is_open else _REPEAT),
            seconds=seconds or None,
            seed=seed,
            ctx_size=ctx_size,
            threads=threads,
        )

    def _enough_context(self) -> int:
        """Return a context that holds prompt and answer, and no more: it is memory."""
        return int(self.prompt_tokens * _INEXACTNESS) + _TEMPLATE_TOKENS + self.max_tokens

    def _print(self, report: Report, writer: AnswerWriter) -> None:
        if not self.json and sys.stdout.isatty():
            print_table(report)
            return
        try:
            writer.write(as_json(report) if self.json else as_lines(report))
        except BrokenPipeError:  # `| head -1` has all it wanted
            discard_output()


def parse_streams(text: str) -> tuple[int, ...]:
    """Return the numbers of `1,2,4`, each once."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise InvalidValueError("--streams must be numbers, like 1,2,4") from error
    if not all(1 <= number <= _MAX_STREAMS for number in numbers):
        raise InvalidValueError(f"--streams must be between 1 and {_MAX_STREAMS}")
    return tuple(dict.fromkeys(numbers))


def _measure_until_interrupted(report: Report, open_target: OpenTarget) -> int:
    """Fill the report; return the exit code.

    Ctrl-C has to raise here, not to end the process: what was measured is still to be printed.
    """
    import asyncio

    parameters = report.parameters
    runs = 1 + parameters.repeat * len(parameters.prefixes)  # the first warms up
    plan = Plan(
        [streams for streams in parameters.streams for _ in range(runs)], parameters.seconds
    )
    progress = Progress(plan)
    leave_at_once = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        asyncio.run(_measure(report, open_target, plan, progress))
    except KeyboardInterrupt:
        return INTERRUPTED
    except TimeoutError as error:
        if not report.runs:
            raise EngineError(
                f"nothing could be measured in {parameters.seconds:g} s; give --seconds more, or "
                "--prompt-tokens and --max-tokens fewer"
            ) from error
    finally:
        signal.signal(signal.SIGINT, leave_at_once)
        progress.clear()
    report.complete = not plan.pending
    return 0


async def _measure(report: Report, open_target: OpenTarget, plan: Plan, progress: Progress) -> None:
    """Do all runs that there is time for.

    Each number of streams gets a target of its own, and one run to warm it up.

    Raises:
        TimeoutError: a run took longer than it seemed to.
    """
    run_numbers = itertools.count()
    async with progress.drawn():
        for streams in report.parameters.streams:
            if not plan.allows(streams, runs=2):
                return
            progress.show(f"streams {streams}: starting")
            target = open_target(streams)
            try:
                report.model = await target.ready()
                await _measure_streams(report, target, streams, run_numbers, plan, progress)
            finally:
                await target.aclose()


async def _measure_streams(
    report: Report,
    target: Target,
    streams: int,
    run_numbers: "itertools.count[int]",
    plan: Plan,
    progress: Progress,
) -> None:
    """Do all runs of so many streams; the kinds take turns, so that a drift meets them alike."""
    parameters = report.parameters

    async def run(prefix: Prefix) -> Run:
        prompts = build_prompts(
            prefix,
            streams=streams,
            prompt_tokens=parameters.prompt_tokens,
            run=next(run_numbers),
            seed=parameters.seed,
        )
        async with plan.run(streams):
            return await run_once(target, prompts)

    progress.show(f"streams {streams}: warming up")
    warm_up = await run(parameters.prefixes[0])
    if len(warm_up.errors) == streams:  # nothing works: no need to find that out again and again
        raise EngineError(warm_up.errors[0])
    for number in range(parameters.repeat):
        for prefix in parameters.prefixes:
            if not plan.allows(streams):
                return
            progress.show(f"streams {streams}: {prefix}, {number + 1} of {parameters.repeat}")
            measured = await run(prefix)
            report.runs.setdefault((prefix, streams), []).append(measured)


async def run_once(target: Target, prompts: list[str]) -> Run:
    """Send all prompts at once, and wait for the answers."""
    import asyncio

    return evaluate(await asyncio.gather(*(_answer(target, prompt) for prompt in prompts)))


async def _answer(target: Target, prompt: str) -> Answer:
    started = time.perf_counter()
    pieces: list[float] = []
    cost: Cost | None = None
    error: str | None = None
    try:
        async with contextlib.aclosing(target.stream(prompt)) as parts:
            async for part in parts:
                if isinstance(part, Cost):
                    cost = part
                else:
                    pieces.append(time.perf_counter())
    except LLMStreamError as failure:
        error = str(failure)
    return Answer(started, tuple(pieces), time.perf_counter(), cost, error)
