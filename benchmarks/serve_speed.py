"""Throughput of `llmstream serve` beside that of the bare core on the same requests.

    python benchmarks/serve_speed.py [-r 5] [--streams 16]

Each round runs, one after the other and each in a process of its own: `EngineCore` stepped in a
plain loop, and the server with all streams reading `/token_stream` over sockets of their own, from
this process. Both generate 128 tokens for each of the same distinct prompts, with the defaults of
the service; what counts is all tokens by the time from the first request to the last byte. Prints
the ratio of each round, and the medians.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.core.engine_core import EngineCore
from llmstream_cli.core.model import LoadedModel
from llmstream_cli.core.prefix_cache import PrefixCache
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import Scheduler
from llmstream_cli.machine import default_threads
from llmstream_cli.models.resolve import resolve
from llmstream_cli.prompts.messages import Message

TOKENS, CTX_SIZE = 128, 512
WORDS = "river stone lamp cloud engine paper market winter garden signal copper violin harbor"


def questions(streams: int, salt: int) -> list[str]:
    words = WORDS.split()
    chosen = [
        words[(number * 5 + salt + k * (number + 1)) % 13]
        for number in range(streams)
        for k in range(20)
    ]
    return [
        f"Story {salt}-{number}: {' '.join(chosen[20 * number : 20 * number + 20])}. Tell it."
        for number in range(streams)
    ]


def core_speed(path: str, streams: int, salt: int) -> float:
    loaded = LoadedModel(EngineConfig(model_path=path, ctx_size=CTX_SIZE))
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    batch = max(64, 2 * streams)
    sizes = {"max_batch_tokens": batch, "ctx_size": CTX_SIZE}
    runner = Runner(loaded.model, max_seqs=streams, threads=default_threads(), **sizes)
    cache = PrefixCache(streams, min_copy_tokens=16)
    core = EngineCore(runner, Scheduler(cache, **sizes), loaded.model.piece)

    def generate(texts: list[str]) -> float:
        started = time.perf_counter()
        for number, text in enumerate(texts):
            request = GenerationRequest((Message("user", text),), params)
            core.add(number, loaded.encode(request), params)
        while core.has_work:
            core.step()
        return streams * TOKENS / (time.perf_counter() - started)

    generate(questions(streams, 100 + salt))  # warm up
    return generate(questions(streams, salt))


async def read_answer(host: str, port: int, question: str) -> None:
    body = json.dumps({"query": question, "max_tokens": TOKENS, "ignore_eos": True}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        f"POST /token_stream HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    response = b""
    while data := await reader.read(65536):
        response += data
    writer.close()
    assert response.startswith(b"HTTP/1.1 200"), response[:200]
    assert response.endswith(b"0\r\n\r\n"), response[-100:]


async def served_speed(streams: int, salt: int) -> float:
    command = [str(Path(sys.executable).parent / "llmstream"), "serve", "--port", "0"]
    options = ["--parallel", str(streams), "--ctx-size", str(CTX_SIZE)]
    server = await asyncio.create_subprocess_exec(
        *command, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert server.stdout is not None
    assert server.stderr is not None
    found = re.match(rb"http://(.*):(\d+)", await server.stdout.readline())
    assert found
    host, port = found[1].decode(), int(found[2])
    while not (await server.stderr.readline()).startswith(b"curl"):
        pass
    log = asyncio.create_task(server.stderr.read())
    for turn in (100 + salt, salt):  # the first warms up
        started = time.perf_counter()
        await asyncio.gather(*(read_answer(host, port, text) for text in questions(streams, turn)))
        speed = streams * TOKENS / (time.perf_counter() - started)
    server.terminate()
    await log
    await server.wait()
    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--core", type=int, metavar="SALT", help="measure the core alone, once")
    arguments = parser.parse_args()
    path, streams = str(resolve().path), arguments.streams
    if arguments.core is not None:
        print(core_speed(path, streams, arguments.core))
        return
    ratios = []
    for number in range(arguments.rounds):
        command = [sys.executable, __file__, "--core", str(number), "--streams", str(streams)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        core, served = float(done.stdout), asyncio.run(served_speed(streams, number))
        ratios.append(served / core)
        print(f"core {core:.1f} token/s, served {served:.1f}: {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
