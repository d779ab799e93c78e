"""A server in a process of its own, with the real model."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TIMEOUT = 300  # seconds; the machines that run this are slow at times


@contextlib.contextmanager
def running_server(log: Path, *options: str) -> Iterator[str]:
    """Run `llmstream serve` on a free port; yield its URL once the model is loaded.

    Args:
        log: where its standard error goes.
        options: of the command.
    """
    command = [sys.executable, "-m", "llmstream_cli", "serve", "--port", "0", *options]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr) as process,
    ):
        try:
            yield _wait_for_url(process, log)
        finally:
            process.terminate()
            try:
                process.wait(TIMEOUT)
            finally:
                process.kill()


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        serving = re.search(r"^serving \S+ at (\S+)$", log.read_text(), re.MULTILINE)
        if serving:
            return serving[1]
        time.sleep(0.1)
    raise AssertionError(f"the server does not serve: {log.read_text()}")
