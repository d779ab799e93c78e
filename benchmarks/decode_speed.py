"""Speed of decoding beside llama.cpp's own batched-bench, which only decodes and never samples.

    python benchmarks/decode_speed.py --peer BUILD/bin/llama-batched-bench [-r 5]

Each round runs, one after the other and each in a process of its own: the peer; our core stepped in
a plain loop; our engine with its thread and asyncio. All get prompts of 4 tokens and decode 192
tokens a stream; only the time in which all streams decode counts. Prints each round's speeds, and
the median ratios.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from llmstream_cli.api import Chunk, EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.llama import Model
from llmstream_cli.core.model import EncodedRequest
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import Scheduler
from llmstream_cli.engines.in_process import InProcessEngine
from llmstream_cli.machine import default_threads
from llmstream_cli.models.resolve import resolve

PROMPT, TOKENS, CTX_SIZE = 4, 192, 256  # short prompts: sixteen of them fit into one step
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, max_tokens=TOKENS, ignore_eos=True)
DEFAULT = SamplingParams(max_tokens=TOKENS, ignore_eos=True)


def prompts(streams: int) -> list[tuple[int, ...]]:
    rng = random.Random(streams)
    return [tuple(rng.randrange(100, 49_000) for _ in range(PROMPT)) for _ in range(streams)]


def peer_speed(command: str, path: str, streams: int) -> float:
    """Tokens per second of llama-batched-bench."""
    output = subprocess.run(
        [
            *(command, "-m", path, "-c", str(CTX_SIZE * streams), "-t", str(default_threads())),
            *("-npp", str(PROMPT), "-ntg", str(TOKENS), "-npl", str(streams)),
            *("--output-format", "jsonl"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_tg"])


def core_speed(path: str, streams: int, params: SamplingParams) -> float:
    """Tokens per second of `EngineCore` in a loop."""
    model = Model(path)
    batch = max(64, 2 * streams)
    sizes = {"max_batch_tokens": batch, "ctx_size": CTX_SIZE}
    runner = Runner(model, max_seqs=streams, threads=default_threads(), **sizes)
    cache = PrefixCache(streams, min_copy_tokens=16)
    core = EngineCore(runner, Scheduler(cache, **sizes), model.piece)
    for number, prompt in enumerate(prompts(streams)):
        core.add(number, EncodedRequest(list(prompt)), params)
    times = []
    while core.has_work:
        results = core.step()
        drawn = sum(len(chunk.token_ids) for _, chunk in results if isinstance(chunk, Chunk))
        times.append((time.perf_counter(), drawn))
    runner.close()
    return _all_decoding(times, streams)


def _all_decoding(times: list[tuple[float, int]], streams: int) -> float:
    """Speed of the steps that drew a token for every stream; the first of them starts the clock."""
    full = [moment for moment, tokens in times if tokens == streams]
    return (len(full) - 1) * streams / (full[-1] - full[0])


async def engine_speed(path: str, streams: int, params: SamplingParams) -> float:
    """Tokens per second of the engine, read through asyncio."""
    config = EngineConfig(model_path=path, max_seqs=streams, ctx_size=CTX_SIZE)
    engine = InProcessEngine(config)
    engine.start()
    await engine.ready()
    moments: list[list[float]] = []

    async def read(prompt: tuple[int, ...]) -> None:
        request = GenerationRequest(prompt=prompt, sampling=params)
        mine: list[float] = []
        moments.append(mine)
        async with contextlib.aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                mine.extend(time.perf_counter() for _ in chunk.token_ids)

    await asyncio.gather(*map(read, prompts(streams)))
    await engine.aclose()
    begin, end = max(mine[0] for mine in moments), min(mine[-1] for mine in moments)
    return sum(begin < moment <= end for mine in moments for moment in mine) / (end - begin)


WAYS: dict[str, Callable[[str, int], float]] = {
    "core, greedy": lambda path, streams: core_speed(path, streams, GREEDY),
    "core, default": lambda path, streams: core_speed(path, streams, DEFAULT),
    "engine, default": lambda path, streams: asyncio.run(engine_speed(path, streams, DEFAULT)),
}


def our_speed(way: str, streams: int) -> float:
    """Tokens per second of one of `WAYS`; a process of its own, as OpenMP's threads outlive use."""
    command = [sys.executable, __file__, "--way", way, "--streams", str(streams)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(peer: str, path: str, streams: int, rounds: int) -> None:
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        theirs = peer_speed(peer, path, streams)
        ours = {way: our_speed(way, streams) for way in WAYS}
        if not number:  # the first round warms up
            continue
        for way, speed in ours.items():
            ratios[way].append(speed / theirs)
        shown = ", ".join(f"{way} {speed:.1f}" for way, speed in ours.items())
        print(f"streams {streams}: peer {theirs:.1f}, {shown}", flush=True)
    for way, values in ratios.items():
        median = statistics.median(values)
        print(f"{streams} {way}: {median:.3f} of the peer ({min(values):.3f} to {max(values):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="llama-batched-bench")
    parser.add_argument("--way", choices=WAYS, help="measure this alone, once")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--streams", default="1,16")
    arguments = parser.parse_args()
    path = str(resolve().path)
    for streams in map(int, arguments.streams.split(",")):
        if arguments.way:
            print(WAYS[arguments.way](path, streams))
        else:
            compare(arguments.peer, path, streams, arguments.rounds)


if __name__ == "__main__":
    main()
