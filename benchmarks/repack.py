"""Time and memory to repack a model of Puffin's size, and how fast it answers then.

    python -m benchmarks.repack FOLDER [--keep]

Writes a candle file of Puffin's shapes with random weights, 798 MB, into FOLDER: all matrices in
Q4_K (1,414 million weights in 4.5 bits: 795 MB), norms and biases in float32 (2.7 MB). Repacks it
in a process of its own, whose time and peak memory are printed, and loads the result.
"""

import argparse
import json
import math
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from llmstream_cli.models.gguf import WEIGHT_TYPES, padded
from tests.candle_files import Shape

PUFFIN = Shape("layers", width=2048, feed_forward=8192, layers=24, rows=50304)
KNOWN_TOKENS = 50295
Q4_K, F32 = WEIGHT_TYPES[12], WEIGHT_TYPES[0]
PROMPT_TOKENS, ANSWER_TOKENS = 32, 24


def write_model(path: Path) -> None:
    """Write the file piece by piece; see `tests.candle_files`, which holds it all in memory."""
    shapes, infos, offset = PUFFIN.tensors(), list[bytes](), 0
    sizes = dict[str, int]()
    for name, shape in shapes.items():
        kind = Q4_K if len(shape) > 1 else F32
        sizes[name] = math.prod(shape) // kind.block_size * kind.block_bytes
        where = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind.id, offset)
        infos.append(struct.pack("<Q", len(name)) + name.encode() + where)
        offset += padded(sizes[name], 32)
    header = b"GGUF" + struct.pack("<IQQ", 2, len(shapes), 0) + b"".join(infos)
    random = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(header.ljust(padded(len(header), 32), b"\0"))
        for name, shape in shapes.items():
            file.write(_content(name, shape, random).ljust(padded(sizes[name], 32), b"\0"))


def _content(name: str, shape: tuple[int, ...], random: np.random.Generator) -> bytes:
    if len(shape) == 1:
        return np.full(shape, float(name.endswith("ln.weight")), np.float32).tobytes()
    blocks = random.integers(0, 256, (math.prod(shape) // 256, 144), np.uint8)
    scale = 1 / math.sqrt(shape[0]) / 255
    blocks[:, :4] = np.array([scale, 7.5 * scale], np.float16).view(np.uint8)
    return blocks.tobytes()


def write_tokenizer(path: Path) -> None:
    """Write a vocabulary of the real one's size: letters, made-up words, runs of spaces."""
    letters = [chr(0x100 + n) for n in range(68)] + [chr(n) for n in range(0x21, 0x21 + 188)]
    words, merges = [*letters], list[list[str]]()
    for left in letters:
        for right in letters:
            if len(words) < 50256:
                words.append(left + right)
                merges.append([left, right])
    added = [{"id": 50256, "content": "<|endoftext|>", "special": True}]
    added += [
        {"id": token, "content": " " * (token - 50255), "special": False}
        for token in range(50257, KNOWN_TOKENS)
    ]
    vocabulary = {word: token for token, word in enumerate(words)}
    content = {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
        "added_tokens": added,
    }
    path.write_text(json.dumps(content))


def repack_here(source: Path, tokenizer: Path, target: Path) -> None:
    from llmstream_cli.models.candle import repack
    from llmstream_cli.models.progress import Progress

    started, used = time.perf_counter(), time.process_time()
    repack(source, tokenizer, target, Progress())
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    print(f"repacked in {seconds:.2f} s ({cpu:.2f} s of CPU), peak memory {peak:.0f} MB")


def run_here(target: Path) -> None:
    from llmstream_cli.core.llama import Batch, Context, Model
    from llmstream_cli.models.gguf_check import check_gguf

    started = time.perf_counter()
    check_gguf(target)
    print(f"checked in {(time.perf_counter() - started) * 1000:.0f} ms")
    model = Model(str(target))
    print(f"{model.description}, loaded in {model.load_seconds:.2f} s")
    threads = os.cpu_count() or 1
    context = Context(
        model, ctx_size=512, max_seqs=1, max_batch_tokens=PROMPT_TOKENS, threads=threads
    )
    times = list[float]()
    for position in [-PROMPT_TOKENS, *range(ANSWER_TOKENS)]:
        batch = Batch(PROMPT_TOKENS)
        places = range(position, max(position + 1, 0))
        for place in places:
            batch.add(place % 1000, PROMPT_TOKENS + place, 0, output=place == places[-1])
        started = time.perf_counter()
        context.decode(batch)
        times.append(time.perf_counter() - started)
    prefill, decode = PROMPT_TOKENS / times[0], ANSWER_TOKENS / sum(times[1:])
    print(f"prefill {prefill:.1f} tok/s, decode {decode:.1f} tok/s, {threads} threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    parser.add_argument("--step", choices=["repack", "run"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    source, tokenizer, target = (
        options.folder / name for name in ("source.gguf", "tokenizer.json", "model.gguf")
    )
    if options.step == "repack":
        return repack_here(source, tokenizer, target)
    if options.step == "run":
        return run_here(target)
    options.folder.mkdir(parents=True, exist_ok=True)
    write_model(source)
    write_tokenizer(tokenizer)
    print(f"source: {source.stat().st_size / 1e6:.1f} MB", flush=True)
    try:
        for step in ("repack", "run"):
            command = [sys.executable, "-m", "benchmarks.repack", str(options.folder)]
            subprocess.run([*command, "--step", step], check=True)
    finally:
        if not options.keep:
            for path in (source, tokenizer, target):
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
