"""The `llmstream` command; also `python -m llmstream_cli`."""

import contextlib
import os
import sys
import threading
import time
from typing import NoReturn

STARTED = time.perf_counter()  # as early as can be: the statistics count from here

_INTERRUPTED = 130


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    try:
        from llmstream_cli.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command could take care of it
        code = _INTERRUPTED
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process; a thread that is still inside llama.cpp cannot be waited for."""
    if threading.active_count() > 1:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
