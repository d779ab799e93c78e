"""Speed of generation on a machine that others use too, and how soon it is back when they leave.

    python benchmarks/busy_machine.py [-r 5] [--busy 2] [--peer BUILD/bin/llama-server]

Others are loops, by default one for each CPU. Each round measures for some seconds without them and
as long with them, while the streams go on; the first second after a change counts for the return to
full speed, not for the speed. Measured: `llmstream serve` with one stream and with eight, with two
models that answer at once, and llama-server under the same load; and runs of `llmstream ask`, by
what they say of their speed. Printed: medians of the rounds, and their range.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from llmstream_cli.models.resolve import resolve

LLMSTREAM = str(Path(sys.executable).parent / "llmstream")
QUESTION = "Tell me the story of the lighthouse, the sailor, and the number"
STREAMS, CTX_SIZE, TOKENS = 8, 512, 192
CHANGE, WINDOW, FULL = 1.0, 0.25, 0.9  # seconds, seconds, and the part of the quiet speed


@contextlib.contextmanager
def others(number: int) -> Iterator[None]:
    """Keep so many CPUs busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def running(command: list[str], ready: str) -> Iterator[int]:
    """Run a server until `ready` answers; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    output = subprocess.DEVNULL
    server = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=output)
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}").close()
                break
            time.sleep(0.1)
        else:
            raise SystemExit(f"{command[0]} does not become ready")
        yield port
    finally:
        server.terminate()
        server.wait()


class Streams:
    """Answers that follow each other without end, one stream for each of `models`."""

    def __init__(self, port: int, models: list[str]) -> None:
        self._port = port
        self._ended = threading.Event()
        self._moments: list[list[float]] = [[] for _ in models]  # of each stream's tokens
        self._readers = [
            threading.Thread(target=self._read, args=(model, number), daemon=True)
            for number, model in enumerate(models)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, model: str, number: int) -> None:
        body = {"model": model, "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
        while not self._ended.is_set():
            number += 100
            connection = http.client.HTTPConnection("127.0.0.1", self._port)
            payload = json.dumps({**body, "prompt": f"{QUESTION} {number}."})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/completions", payload, headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                if line.startswith(b"data: {"):
                    self._moments[number % 100].append(time.monotonic())
                if self._ended.is_set():
                    break
            connection.close()

    def speed(self, begin: float, end: float) -> float:
        """Return the tokens per second of all streams in a time that has passed."""
        return sum(begin <= t < end for mine in self._moments for t in mine) / (end - begin)

    def back(self, since: float, speed: float) -> float:
        """Return after how many seconds so much of the speed was there again; inf if never."""
        begin = since
        while begin + WINDOW < time.monotonic():
            if self.speed(begin, begin + WINDOW) >= FULL * speed:
                return begin - since
            begin += 0.02
        return float("inf")

    def close(self) -> None:
        self._ended.set()
        for reader in self._readers:
            reader.join()


def summary(values: list[float], unit: str = "", digits: int = 2) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def report(name: str, quiet: list[float], busy: list[float]) -> None:
    ratios = [b / max(q, 0.1) for q, b in zip(quiet, busy, strict=True)]
    print(
        f"{name}: quiet {summary(quiet, digits=1)}, busy {summary(busy, digits=1)} tok/s,"
        f" ratio {summary(ratios)}",
        flush=True,
    )


def measure(name: str, streams: Streams, number: int, rounds: int, seconds: float) -> None:
    quiet, busy, back = [], [], []
    time.sleep(2 * CHANGE)
    for _ in range(rounds):
        time.sleep(seconds)
        quiet.append(streams.speed(time.monotonic() - seconds, time.monotonic()))
        with others(number):
            time.sleep(CHANGE + seconds)
            busy.append(streams.speed(time.monotonic() - seconds, time.monotonic()))
        left = time.monotonic()
        time.sleep(2 * CHANGE)
        back.append(streams.back(left, quiet[-1]))
    streams.close()
    report(name, quiet, busy)
    print(f"  {FULL} of the quiet speed again after {summary(back, ' s')}", flush=True)


def serve(command: list[str], name: str, ready: str, arguments: argparse.Namespace) -> None:
    for number in (1, STREAMS):
        with running(command, ready) as port:
            streams = Streams(port, ["smollm2"] * number)
            title = f"{name}, streams {number}"
            measure(title, streams, arguments.busy, arguments.rounds, arguments.seconds)


def two_models(path: str, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder) / f"{name}.gguf" for name in ("one", "two")]
        for link in links:
            link.symlink_to(path)
        models = [word for link in links for word in ("--model", str(link))]
        command = [arguments.llmstream, "serve", *models, "--ctx-size", str(CTX_SIZE)]
        with running(command, "/ready") as port:
            for alone in ("one", "two"):  # load both
                streams = Streams(port, [alone])
                time.sleep(4)
                speed = streams.speed(time.monotonic() - 2, time.monotonic())
                streams.close()
                print(f"two models, {alone} alone: {speed:.1f} tok/s")
            both = Streams(port, ["one", "two"])
            title = "two models that answer at once"
            measure(title, both, arguments.busy, arguments.rounds, arguments.seconds)


def ask(arguments: argparse.Namespace) -> None:
    command = [arguments.llmstream, "ask", QUESTION, "-n", "96", "--json"]

    def speed() -> float:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return float(json.loads(output)["timings"]["tokens_per_second"])

    quiet, busy = [], []
    for _ in range(arguments.rounds):
        quiet.append(speed())
        with others(arguments.busy):
            time.sleep(0.2)
            busy.append(speed())
    report("llmstream ask", quiet, busy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llmstream", default=LLMSTREAM, help="another installation's command")
    parser.add_argument("--peer", help="llama-server")
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="loops of others")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", choices=("ask", "serve", "two", "peer"))
    arguments = parser.parse_args()
    path = str(resolve().path)
    sizes = ["--parallel", str(STREAMS)]
    if arguments.only in (None, "ask"):
        ask(arguments)
    if arguments.only in (None, "serve"):
        command = [arguments.llmstream, "serve", *sizes, "--ctx-size", str(CTX_SIZE)]
        serve(command, "llmstream serve", "/ready", arguments)
    if arguments.only in (None, "two"):
        two_models(path, arguments)
    if arguments.only in (None, "peer") and arguments.peer:
        peer = shutil.which(arguments.peer)
        assert peer, arguments.peer
        command = [peer, "-m", path, *sizes, "--ctx-size", str(CTX_SIZE * STREAMS)]
        serve(command, "llama-server", "/health", arguments)


if __name__ == "__main__":
    main()
