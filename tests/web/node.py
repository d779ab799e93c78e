"""The page's modules in Node.js."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llmstream_cli.server

STATIC = Path(llmstream_cli.server.__file__).parent / "static"
HERE = Path(__file__).parent


class Worker:
    """A script that answers each line of JSON with one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, value: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the script has ended"
        return json.loads(line)


@contextlib.contextmanager
def running(script: str, module: str) -> Iterator[Worker]:
    """Run a script of this folder on one of the page's modules."""
    node = shutil.which("node")
    assert node, "the page's tests need Node.js: apt-get install nodejs"
    command = [node, str(HERE / script), str(STATIC / module)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()
