"""Time to draw a token from the whole vocabulary, and from the few logits that matter.

    python -m benchmarks.sampling

Sixteen sequences in step, the two ways in turn on the same rows; prints medians in microseconds.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.llama import Batch, Context, Model, Sampler
from llmstream_cli.models.resolve import resolve
from tests.core.test_sampler import whole_vocabulary

SEQUENCES, STEPS, CTX_SIZE = 16, 60, 512

Draw = Callable[[Context, int], object]


def measure(model: Model, name: str, params: SamplingParams) -> None:
    context = Context(model, ctx_size=CTX_SIZE, max_seqs=SEQUENCES, max_batch_tokens=64, threads=2)
    seeded = [replace(params, seed=number) for number in range(SEQUENCES)]
    samplers = [Sampler(model, p, prompt=[1], ctx_size=CTX_SIZE) for p in seeded]
    ways: tuple[Sequence[Draw], ...] = (
        [whole_vocabulary(model, p, [1]).sample for p in seeded],
        [sampler.sample for sampler in samplers],
    )
    batch, rows = Batch(64), model.tokenize("a b c d e f g h i j k l m n o p", special=False)
    times: list[list[float]] = [[], []]
    for position in range(STEPS):
        batch.clear()
        for number, token in enumerate(rows):
            batch.add(token, position, number, output=True)
        context.decode(batch)
        for way in (0, 1) if position % 2 else (1, 0):
            started = time.perf_counter()
            for number, draw in enumerate(ways[way]):
                draw(context, number)
            times[way].append((time.perf_counter() - started) / SEQUENCES)
    whole, few = (statistics.median(way) * 1e6 for way in times)
    print(f"{name:20} whole vocabulary {whole:6.1f}  narrowed {few:6.1f}  {few / whole:5.2f}")


if __name__ == "__main__":
    smollm2 = Model(str(resolve().path))
    measure(smollm2, "default", SamplingParams())
    measure(smollm2, "greedy, penalties", SamplingParams(temperature=0.0))
