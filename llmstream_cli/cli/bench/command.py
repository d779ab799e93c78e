"""`llmstream bench`: how fast a model answers, for one reader and for many."""

import contextlib
import itertools
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from llmstream_cli.api import Engine, EngineConfig, GenerationRequest, Usage
from llmstream_cli.cli.bench.figures import (
    MIN_PROMPT_TOKENS,
    Answer,
    Prefix,
    build_prompts,
    evaluate,
)
from llmstream_cli.cli.bench.options import BenchOptions
from llmstream_cli.cli.bench.progress import Plan, shown
from llmstream_cli.cli.bench.report import Parameters, Report, as_json, as_text
from llmstream_cli.cli.process import INTERRUPTED
from llmstream_cli.cli.progress import make_progress
from llmstream_cli.cli.prompt import preset_format, read_template
from llmstream_cli.cli.terminal import AnswerWriter, discard_output
from llmstream_cli.errors import EngineError, InvalidValueError, LLMStreamError, one_line
from llmstream_cli.machine import default_threads
from llmstream_cli.models.resolve import ModelChoice, resolve
from llmstream_cli.prompts.messages import Message
from llmstream_cli.sampling import PARAMETERS, SamplingParams

_MAX_STREAMS = 256
_MAX_NAME_CHARS = 200

# Where the user says neither how many streams nor how many runs, the time is what ends it: some of
# a minute is left to load the model.
_SECONDS = 50.0
_STREAMS = "1,2,4,8,16,32"
_REPEAT = 3

_PREFIXES: dict[str, tuple[Prefix, ...]] = {
    "distinct": ("distinct",),
    "shared": ("shared",),
    "both": ("distinct", "shared"),
}

_BOUNDS = {
    "prompt_tokens": (MIN_PROMPT_TOKENS, 1_000_000),
    "max_tokens": (1, 1_000_000),
    "repeat": (1, 1000),
    "seconds": (0, 1_000_000),
    "seed": (0, 2**32 - 1),
}

# What a chat template puts around a prompt, and how far off "about" can be.
_TEMPLATE_TOKENS = 64
_INEXACTNESS = 1.25

# What another server is left to decide by itself.
_UNSET = tuple(PARAMETERS.keys() - {"temperature", "max_tokens"})

OpenEngine = Callable[[int], Engine]  # for so many streams


def run_bench(how: BenchOptions) -> int:
    """Measure, and print the report to standard output; return the exit code.

    Raises:
        EngineError: requests failed; the report, with what was measured, is printed.
    """
    _check(how)
    parameters = parameters_of(how)
    url = None
    if how.url is not None:
        url, open_engine = _remote(how, how.url)
    else:
        # Room for prompt and answer, and no more: it is memory.
        enough = int(how.prompt_tokens * _INEXACTNESS) + _TEMPLATE_TOKENS + how.max_tokens
        ctx_size = enough if how.ctx_size is None else how.ctx_size
        open_engine = _local(how, ctx_size)
        threads = how.threads or default_threads()
        parameters = replace(parameters, ctx_size=ctx_size, threads=threads)
    report = Report(parameters, url)
    writer = AnswerWriter(sys.stdout)
    code, failure = 0, None
    try:
        code = _measure_until_interrupted(report, open_engine)
    except LLMStreamError as error:
        if not report.runs:
            raise
        failure = error
    try:
        writer.write(as_json(report) if how.json else as_text(report))
    except BrokenPipeError:  # `| head -1` has all it wanted
        discard_output()
    if failure is None and report.errors and not code:
        failure = EngineError(f"{len(report.errors)} requests failed, first: {report.errors[0]}")
    if failure is not None:
        raise failure
    return code


def parameters_of(how: BenchOptions) -> Parameters:
    """Return what is measured, as far as the options alone tell."""
    is_open = how.streams is None and how.repeat is None
    seconds = _SECONDS if is_open and how.seconds is None else how.seconds
    return Parameters(
        streams=parse_streams(_STREAMS if how.streams is None else how.streams),
        prefixes=_PREFIXES[how.prefix],
        prompt_tokens=how.prompt_tokens,
        max_tokens=how.max_tokens,
        repeat=how.repeat or (1 if is_open else _REPEAT),
        seconds=seconds or None,
        # A server outlives the benchmark: the prompts of the last one may still be in its cache.
        seed=(secrets.randbelow(2**32) if how.url else 0) if how.seed is None else how.seed,
    )


def parse_streams(text: str) -> tuple[int, ...]:
    """Return the numbers of `1,2,4`, each once."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise InvalidValueError("--streams must be numbers, like 1,2,4") from error
    if not all(1 <= number <= _MAX_STREAMS for number in numbers):
        raise InvalidValueError(f"--streams must be between 1 and {_MAX_STREAMS}")
    return tuple(dict.fromkeys(numbers))


def _check(how: BenchOptions) -> None:
    if how.url is not None and _choice(how) != ModelChoice():
        raise InvalidValueError("--url measures the server's own model; name none with it")
    if how.url is None and how.url_model is not None:
        raise InvalidValueError("--url-model needs --url")
    if how.url is not None and (how.ctx_size, how.threads, how.template) != (None,) * 3:
        raise InvalidValueError(
            "--ctx-size, --threads and --template are the server's; not with --url"
        )
    for name, (low, high) in _BOUNDS.items():
        value = getattr(how, name)
        if value is not None and not low <= value <= high:
            raise InvalidValueError(f"--{name.replace('_', '-')} must be between {low} and {high}")


def _choice(how: BenchOptions) -> ModelChoice:
    return ModelChoice(preset=how.features, model=how.model, file=how.file, tokenizer=how.tokenizer)


def _local(how: BenchOptions, ctx_size: int) -> OpenEngine:
    chat_format = None if how.template is None else read_template(how.template)
    found = resolve(_choice(how), make_progress())

    def open_engine(streams: int) -> Engine:
        from llmstream_cli.engines.in_process import InProcessEngine

        return InProcessEngine(
            EngineConfig(
                model_path=str(found.path),
                ctx_size=ctx_size,
                threads=how.threads,
                max_seqs=streams,
                chat_format=chat_format,
                default_chat_format=preset_format(found.chat_format),
            )
        )

    return open_engine


def _remote(how: BenchOptions, url: str) -> tuple[str, OpenEngine]:
    from llmstream_cli.engines.remote import RemoteEngine

    def open_engine(_streams: int) -> RemoteEngine:
        return RemoteEngine(url, model=how.url_model, api_key=how.api_key)

    return open_engine(1).url, open_engine


# ---- to measure -----------------------------------------------------------------------------


def _measure_until_interrupted(report: Report, open_engine: OpenEngine) -> int:
    """Fill the report; return the exit code.

    Ctrl-C has to raise here, not to end the process: what was measured is still to be printed.
    """
    import asyncio

    parameters = report.parameters
    runs = 1 + parameters.repeat * len(parameters.prefixes)  # the first warms up
    plan = Plan(
        [streams for streams in parameters.streams for _ in range(runs)], parameters.seconds
    )
    leave_at_once = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(TimeoutError):  # a run took longer than it seemed to
            asyncio.run(_measure(report, open_engine, plan))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, leave_at_once)
    if not report.runs:
        raise EngineError(
            f"nothing could be measured in {parameters.seconds:g} s; give --seconds more, or "
            "--prompt-tokens and --max-tokens fewer"
        )
    report.complete = not plan.pending
    return 0


async def _measure(report: Report, open_engine: OpenEngine, plan: Plan) -> None:
    """Do all runs that there is time for.

    Each number of streams gets an engine of its own, and one run to warm it up.
    """
    import asyncio

    run_numbers = itertools.count()
    async with shown(plan), asyncio.timeout(plan.seconds):
        for streams in report.parameters.streams:
            if not plan.allows(streams, runs=2):
                return
            plan.doing = f"streams {streams}: starting"
            engine = open_engine(streams)
            engine.start()
            try:
                report.model = one_line((await engine.ready()).name, _MAX_NAME_CHARS)
                await _measure_streams(report, engine, streams, run_numbers, plan)
            finally:
                await engine.aclose()


async def _measure_streams(
    report: Report, engine: Engine, streams: int, run_numbers: Iterator[int], plan: Plan
) -> None:
    """Do all runs of so many streams; the kinds take turns, so that a drift meets them alike."""
    import asyncio

    parameters = report.parameters
    kinds = [parameters.prefixes[0], *parameters.prefixes * parameters.repeat]
    for number, prefix in enumerate(kinds):
        if not plan.allows(streams):
            return
        what = f"{prefix}, {number} of {len(kinds) - 1}" if number else "warming up"
        plan.start_run(f"streams {streams}: {what}")
        prompts = build_prompts(
            prefix,
            streams=streams,
            prompt_tokens=parameters.prompt_tokens,
            run=next(run_numbers),
            seed=parameters.seed,
        )
        answers = (_answer(engine, prompt, parameters.max_tokens) for prompt in prompts)
        run = evaluate(await asyncio.gather(*answers))
        plan.end_run(streams)
        if number:
            report.runs.setdefault((prefix, streams), []).append(run)
        elif len(run.errors) == streams:  # nothing works: no need to find that out again and again
            raise EngineError(run.errors[0])


async def _answer(engine: Engine, prompt: str, max_tokens: int) -> Answer:
    sampling = SamplingParams(temperature=0.0, repeat_penalty=1.0, max_tokens=max_tokens)
    request = GenerationRequest((Message("user", prompt),), sampling, unset=_UNSET)
    started = time.perf_counter()
    pieces: list[float] = []
    usage: Usage | None = None
    error: str | None = None
    try:
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.text or chunk.reasoning:
                    pieces.append(time.perf_counter())
                usage = chunk.usage or usage
    except LLMStreamError as failure:
        error = str(failure)
    return Answer(started, tuple(pieces), time.perf_counter(), usage, error)
