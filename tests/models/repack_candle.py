"""Repacks a model: `-m` in a process, to be killed, or to come in another's way.

    SOURCE TOKENIZER [pause]

Tells each word of its progress on a line of standard output. With `pause` it waits for a line of
standard input once it has copied a part of the weights.
"""

import sys
from pathlib import Path

from llmstream_cli.models.candle import repacked
from llmstream_cli.models.progress import Progress


class Told(Progress):
    def __init__(self, *, pause: bool) -> None:
        self._pause = pause

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        print(f"{what}: {done_bytes} of {total_bytes} bytes", flush=True)

    def advance(self, num_bytes: int) -> None:
        if self._pause:
            self._pause = False
            print("paused", flush=True)
            sys.stdin.readline()

    def end(self) -> None:
        print("end", flush=True)

    def note(self, line: str) -> None:
        print(f"note: {line}", flush=True)


if __name__ == "__main__":
    source, tokenizer, *pause = sys.argv[1:]
    print(repacked(Path(source), Path(tokenizer), Told(pause=bool(pause))), flush=True)
