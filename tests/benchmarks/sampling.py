"""Time to draw a token from the whole vocabulary and from the few logits that matter.

    python tests/benchmarks/sampling.py

Sixteen sequences in step, the two ways in turn on the same rows; prints medians in microseconds.
"""

import statistics
import time
from dataclasses import replace

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.core.sampler import Sampler
from llmstream_cli.models.resolve import resolve

SEQUENCES, STEPS, CTX_SIZE = 16, 60, 512


def sample(samplers: list[Sampler], context: Context, rows: list[int]) -> tuple[float, list[int]]:
    started = time.perf_counter()
    tokens = [sampler.sample(context, row) for sampler, row in zip(samplers, rows, strict=True)]
    return (time.perf_counter() - started) / SEQUENCES, tokens


def measure(model: Model, name: str, params: SamplingParams) -> None:
    context = Context(model, ctx_size=CTX_SIZE, max_seqs=SEQUENCES, max_batch_tokens=64, threads=2)
    ways = [
        [
            Sampler(
                model,
                replace(params, seed=number),
                prompt=[number],
                ctx_size=CTX_SIZE,
                preselect=preselect,
            )
            for number in range(SEQUENCES)
        ]
        for preselect in (False, True)
    ]
    batch, last = Batch(64), model.tokenize("a b c d e f g h i j k l m n o p", special=False)
    times: list[list[float]] = [[], []]
    for position in range(STEPS):
        batch.clear()
        rows = [batch.add(last[n], position, n, output=True) for n in range(SEQUENCES)]
        context.decode(batch)
        for way in (0, 1) if position % 2 else (1, 0):
            seconds, last = sample(ways[way], context, rows)
            times[way].append(seconds)
    whole, few = (statistics.median(way) * 1e6 for way in times)
    print(f"{name:20} whole vocabulary {whole:6.1f}  preselected {few:6.1f}  {few / whole:5.2f}")


if __name__ == "__main__":
    smollm2 = Model(str(resolve(preset=None, path=None).path))
    measure(smollm2, "default", SamplingParams())
    measure(smollm2, "greedy, penalties", SamplingParams(temperature=0.0))
    measure(smollm2, "greedy", SamplingParams(temperature=0.0, repeat_penalty=1.0))
