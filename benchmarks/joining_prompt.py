"""The gaps between the tokens of running streams while a long prompt joins them.

    python benchmarks/joining_prompt.py [STREAMS ...]

For each number of streams: lets them run for some seconds, sends a prompt of about 1,800 tokens,
and prints the median and the longest gap before that and while the prompt is computed.
"""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Iterable
from itertools import pairwise

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.models.resolve import resolve
from llmstream_cli.prompts.messages import Message


def request(text: str, sampling: SamplingParams) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), sampling)


async def stream(engine: InProcessEngine, number: int, answers: list[list[float]]) -> None:
    """Ask for one story after the other; note when each token comes."""
    for story in range(1000):
        times: list[float] = []
        answers.append(times)
        sampling = SamplingParams(temperature=0.8, seed=1000 * number + story)
        text = f"Tell a very long story about number {number} and {story}."
        async with contextlib.aclosing(engine.generate(request(text, sampling))) as chunks:
            async for chunk in chunks:
                if chunk.token_ids:
                    times.append(time.perf_counter())  # noqa: PERF401  (kept when cancelled)


def describe(gaps: Iterable[float]) -> str:
    milliseconds = [1000 * gap for gap in gaps]
    return f"median {statistics.median(milliseconds):6.1f}  longest {max(milliseconds):6.1f} ms"


async def measure(num_streams: int) -> None:
    path = str(resolve().path)
    engine = InProcessEngine(EngineConfig(model_path=path, max_seqs=num_streams + 1, ctx_size=4096))
    engine.start()
    await engine.ready()
    answers: list[list[float]] = []
    tasks = [asyncio.create_task(stream(engine, n, answers)) for n in range(num_streams)]
    await asyncio.sleep(4)
    joined = time.perf_counter()
    long = request("river stone " * 880, SamplingParams(temperature=0.0, max_tokens=1))
    async with contextlib.aclosing(engine.generate(long)) as chunks:
        async for _ in chunks:
            pass
    ended = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await engine.aclose()
    gaps = [gap for times in answers for gap in pairwise(times)]
    # The first second, in which the streams begin, is no steady state.
    before = [b - a for a, b in gaps if joined - 3 < a and b < joined]
    during = [b - a for a, b in gaps if b > joined and a < ended]
    print(f"{num_streams:3} streams, before: {describe(before)}")
    print(f"{num_streams:3} streams, during: {describe(during)}, for {ended - joined:.1f} s")


if __name__ == "__main__":
    for argument in sys.argv[1:] or ["1", "8"]:
        asyncio.run(measure(int(argument)))
