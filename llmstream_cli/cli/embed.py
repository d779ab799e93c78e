"""`llmstream embed`: a vector for each text, as lines of JSON."""

import json
import math
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, NamedTuple

from llmstream_cli.cli import options
from llmstream_cli.cli.ask.options import EngineOptions
from llmstream_cli.cli.terminal import (
    MAX_INPUT_BYTES,
    read_file,
    read_piped_input,
    write_through,
)
from llmstream_cli.errors import InvalidValueError

_embedding = partial(options.option, "Embedding")


class EmbedOptions(NamedTuple):
    """The options of `llmstream embed`."""

    features: options.Features = None
    model: options.Model = None
    file: options.RepoFile = None
    url: Annotated[
        str | None,
        options.option("Server", "--url URL", "Ask this server instead; no model is loaded here."),
    ] = None
    api_key: options.ApiKey = None
    input: Annotated[
        str | None, _embedding("--input -i FILE", "Take each line of a file as a text.")
    ] = None
    dimensions: Annotated[
        int | None,
        _embedding("--dimensions N", "Cut vectors to so many numbers, of length 1 again."),
    ] = None
    truncate: Annotated[
        bool, _embedding("--truncate", "Cut texts that are longer than the context.")
    ] = False
    ctx_size: Annotated[
        int | None,
        options.option(
            "Machine",
            "--ctx-size",
            "Tokens that a text may have.",
            default="what the model was trained with",
        ),
    ] = None
    threads: options.Threads = None
    gpu_layers: options.GpuLayers = 0

    @property
    def engine(self) -> EngineOptions:
        return EngineOptions(
            features=self.features,
            model=self.model,
            file=self.file,
            url=self.url,
            api_key=self.api_key,
            ctx_size=self.ctx_size,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
        )


def run_embed(words: Sequence[str], how: EmbedOptions) -> int:
    """Write the vectors to standard output; return the exit code."""
    from llmstream_cli.cli.ask.engine import check_engine, open_engine

    check_engine(how.engine)
    if how.dimensions is not None and how.dimensions < 1:
        raise InvalidValueError("--dimensions must be 1 or more")
    texts = [*_texts(words, how.input)]
    if not texts:
        raise InvalidValueError("there is no text; give some, or pipe lines to standard input")
    opened = open_engine(how.engine)

    import asyncio  # this and the rest while the model loads

    from llmstream_cli.api import EmbeddingRequest
    from llmstream_cli.cli.process import leave_interrupted, run_interruptible

    async def embed() -> None:
        found = await opened.engine.embed(EmbeddingRequest(tuple(texts), truncate=how.truncate))
        for text, vector in zip(texts, found.vectors, strict=True):
            line = {"text": text, "embedding": _numbers(vector, how.dimensions)}
            data = json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"
            write_through(sys.stdout, data.encode("utf-8", "replace"))

    with asyncio.Runner() as runner:
        try:
            run_interruptible(runner, embed(), lambda: None)
        except KeyboardInterrupt:
            leave_interrupted()  # before the runner waits for a model that is being loaded
        finally:
            runner.run(opened.engine.aclose())
    return 0


def _texts(words: Sequence[str], file: str | None) -> Iterator[str]:
    """Yield the texts: the words; else the lines of the file, or of standard input."""
    if words and words != ["-"]:
        if file is not None:
            raise InvalidValueError("texts and --input exclude each other")
        yield from words
        return
    if file in (None, "-"):
        text = read_piped_input(strip=False)
    else:
        assert file is not None
        text = read_file(file, MAX_INPUT_BYTES, prefix="--input: ")
    lines = text.replace("\r\n", "\n").split("\n")
    yield from lines[:-1] if not lines[-1] else lines


def _numbers(vector: bytes, dimensions: int | None) -> list[float]:
    size = len(vector) // 4
    if dimensions is not None and dimensions > size:
        raise InvalidValueError(f"--dimensions is {dimensions}, and the vectors have {size}")
    values = struct.unpack(f"<{size}f", vector)[:dimensions]
    length = 1.0 if dimensions is None else math.hypot(*values) or 1.0
    return [float(format(value / length, ".9g")) for value in values]
