"""What expensive requests cost the streams that run beside them, and in memory.

    python -m benchmarks.hostile_requests [--quiet-seconds 5]

Two streams read `/token_stream` of a server with the embedded model. First they are alone; then
come, all at once, twelve schemas and grammars that are expensive to compile, texts that are
expensive to tokenize, and four bodies of 1 MiB whose lists hold what they may not. Prints the
longest gap between two chunks of the streams, alone and beside them, how the requests were
answered, and how far the memory of all the server's processes grew.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.server.process import running_server

SCHEMAS: list[dict[str, Any]] = [
    *({"type": "integer", "multipleOf": n} for n in (1_000_003, 1_500_007, 4_000_001, 999_983)),
    *(
        {
            "type": "object",
            "patternProperties": {f"^{letter}{n}b*$": {"type": "integer"} for n in range(600)},
        }
        for letter in "abcd"
    ),
]
GRAMMARS = [
    "root ::= root root root? | [a-z]?",
    f"root ::= {'[a-z]? ' * 8000}",
    "root ::= ((([a-z]{0,1000}){0,1000}){0,1000}){0,1000}",
    f"root ::= ({' | '.join(f'[{chr(97 + n % 25)}-z]' for n in range(6000))})*",
]
TEXTS = ["\u0301" * 5000, " " * 500_000, "\U0001f600" * 100_000, "a" * 500_000]
BODIES = [b'{"query":"x","stop":[' + b",".join([b"1"] * 500_000) + b"]}"] * 4


def memory(root: int) -> float:
    """Return how much memory a process and those below it hold together, in MB."""
    process = psutil.Process(root)
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total / 1e6


async def post(url: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, int]:
    where = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = (
        f"POST /token_stream HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    return reader, writer, status


async def answer(url: str, body: bytes) -> int:
    """Send a request; return its status when it is answered."""
    try:
        reader, writer, status = await post(url, body)
        await reader.read()
        writer.close()
    except (OSError, IndexError):
        return 0
    return status


class Stream:
    """Answers read one after the other; notes when each part came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.failed = 0

    async def read(self, url: str) -> None:
        while True:
            body = {"query": "Tell a long story.", "max_tokens": 2000, "ignore_eos": True}
            reader, writer, status = await post(url, json.dumps(body).encode())
            self.failed += status != 200
            while await reader.read(4096):
                self.times.append(time.perf_counter())
            writer.close()

    def longest_gap(self, since: float, until: float) -> float:
        times = [since, *(t for t in self.times if since < t < until), until]
        return max(after - before for before, after in itertools.pairwise(times))


async def measure(url: str, root: int, quiet_seconds: float) -> dict[str, Any]:
    """Run the requests beside two streams; return what came of it."""
    streams = [Stream(), Stream()]
    readers = [asyncio.create_task(stream.read(url)) for stream in streams]
    while not all(stream.times for stream in streams):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    # The first grammar has the vocabulary read, which is done once.
    await answer(url, json.dumps({"query": "x", "grammar": 'root ::= "a"'}).encode())
    begun = time.perf_counter()
    await asyncio.sleep(quiet_seconds)
    before, peak = memory(root), 0.0
    hostile = [
        *({"query": "x", "json_schema": schema, "max_tokens": 30} for schema in SCHEMAS),
        *({"query": "x", "grammar": grammar, "max_tokens": 30} for grammar in GRAMMARS),
        *({"query": text, "max_tokens": 5} for text in TEXTS),
    ]
    bodies = [*(json.dumps(body).encode() for body in hostile), *BODIES]
    started = time.perf_counter()
    answers = [asyncio.create_task(answer(url, body)) for body in bodies]
    while not all(task.done() for task in answers):
        peak = max(peak, await asyncio.to_thread(memory, root))
        await asyncio.sleep(0.1)
    ended = time.perf_counter()
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return {
        "gap_alone": max(stream.longest_gap(begun, started) for stream in streams),
        "gap_beside": max(stream.longest_gap(started, ended) for stream in streams),
        "seconds": ended - started,
        "grown_mb": peak - before,
        "statuses": [task.result() for task in answers],
        "failed": sum(
            stream.failed + (reader.done() and not reader.cancelled())
            for stream, reader in zip(streams, readers, strict=True)
        ),
    }


def run(quiet_seconds: float = 5.0) -> dict[str, Any]:
    """Start a server and measure."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "log", "--parallel", "6") as url,
    ):
        (server,) = psutil.Process().children()
        return asyncio.run(measure(url, server.pid, quiet_seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quiet-seconds", type=float, default=5.0)
    found = run(parser.parse_args().quiet_seconds)
    print(f"longest gap: {found['gap_alone']:.3f} s alone, {found['gap_beside']:.3f} s beside them")
    print(f"memory: {found['grown_mb']:+.0f} MB at the most")
    print(f"answered in {found['seconds']:.1f} s: {dict(Counter(found['statuses']))}")
    print(f"streams that failed: {found['failed']}")
