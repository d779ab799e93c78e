"""One scheduled step on the model: fill the batch, decode, sample."""

import math
import time
from functools import partial

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.llama import (
    Batch,
    Context,
    GrowingContext,
    Model,
    Sampler,
    SpinSwitch,
    TokenConstraint,
)
from llmstream_cli.core.scheduler import DrawnToken, Step
from llmstream_cli.core.sequence import Sequence
from llmstream_cli.core.threads import LostTime, ThreadControl, modes
from llmstream_cli.errors import EngineError
from llmstream_cli.machine import default_threads, others_running, usable_cpus

_PAUSE = 1.0  # seconds without a step, after which the machine may be another
_GRAMMAR_SECONDS = 0.005  # that a step waits for grammars, most of which need 0.1 ms


class Runner:
    """Owns the context, which grows up to `ctx_size` tokens a sequence, and the samplers.

    Without a number of `threads` it takes one for each physical core, and fewer while others use
    them. For `max_bytes` see `GrowingContext`.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_seqs: int,
        max_batch_tokens: int,
        ctx_size: int,
        threads: int | None,
        max_bytes: float = math.inf,
    ) -> None:
        self._model = model
        self._threads = threads or default_threads()
        self._batch = Batch(max_batch_tokens)
        make = partial(
            Context,
            model,
            max_seqs=max_seqs,
            max_batch_tokens=max_batch_tokens,
            threads=self._threads,
        )
        self.contexts = GrowingContext(
            lambda size: make(ctx_size=size),
            ctx_size=ctx_size,
            model_bytes=model.size_bytes,
            max_bytes=max_bytes,
        )
        self._samplers: dict[Sequence, Sampler] = {}
        self._spin = SpinSwitch()
        self._control = ThreadControl(
            modes(self._threads, fixed=threads is not None, can_sleep=self._spin.works)
        )
        self._last_step = 0.0

    @property
    def ctx_size(self) -> int:
        """Tokens that a sequence has room for now."""
        return self.contexts.current.ctx_size

    def make_room(self, num_tokens: int, *, wait: bool) -> bool:
        return self.contexts.make_room(num_tokens, wait=wait)

    def add(
        self,
        sequence: Sequence,
        params: SamplingParams,
        constraint: TokenConstraint | None = None,
        constrained: SamplingParams | None = None,
    ) -> None:
        self._samplers[sequence] = Sampler(
            self._model,
            params,
            prompt=sequence.token_ids,
            ctx_size=self.contexts.max_ctx_size,
            constraint=constraint,
            constrained=constrained,
        )

    def begin_constraint(self, sequence: Sequence, text: str) -> None:
        """See `Sampler.begin_constraint`."""
        self._samplers[sequence].begin_constraint(text, sequence.token_ids)

    def remove(self, sequence: Sequence) -> None:
        del self._samplers[sequence]

    def held(self) -> frozenset[Sequence]:
        """Return whose grammars cannot tell the next tokens yet, after a moment's wait for them."""
        deadline = time.monotonic() + _GRAMMAR_SECONDS
        return frozenset(
            sequence
            for sequence, sampler in self._samplers.items()
            if sampler.constraint is not None
            and not sampler.constraint.is_ready(max(0.0, deadline - time.monotonic()))
        )

    def run(self, step: Step) -> dict[Sequence, DrawnToken | EngineError]:
        """Compute a step; draw a token, or tell why not, where a part reaches its sequence's end.

        Raises:
            StepRefusedError: llama.cpp refused the step; what the slots held before it is good.
            EngineError: llama.cpp failed; no sequence can go on.
        """
        context = self.contexts.current
        for reuse in step.reuses:
            if reuse.is_copy:
                context.copy_sequence(reuse.source, reuse.slot)
            context.truncate_sequence(reuse.slot, reuse.num_tokens)
        rows = self._fill(step)
        self._decode(context, step)
        return {sequence: self._draw(sequence, context, row) for sequence, row in rows.items()}

    def close(self) -> None:
        self.contexts.close()
        self._spin.set(spin=True)

    def _fill(self, step: Step) -> dict[Sequence, int]:
        self._batch.clear()
        rows = {}
        for part in step.parts:
            sequence, slot = part.sequence, part.sequence.slot
            assert slot is not None
            last = part.end - 1
            for position in range(part.start, part.end):
                row = self._batch.add(
                    sequence.token_ids[position],
                    position,
                    slot,
                    output=part.samples and position == last,
                )
            if part.samples:
                rows[sequence] = row
        return rows

    def _decode(self, context: Context, step: Step) -> None:
        """Compute the batch with as many threads as the machine has cores for now.

        Attention over a single new token splits the keys among the threads, and so rounds otherwise
        with another number of them. An answer that is to be the same each time keeps the number.
        """
        if time.perf_counter() - self._last_step > _PAUSE:
            wanted = self._threads + others_running()
            self._control.restart(contended=wanted > len(usable_cpus()))
        num_tokens = self._batch.struct.n_tokens
        fixed = num_tokens == 1 and self._samplers[step.parts[0].sequence].is_reproducible
        mode = self._control.choose(num_tokens, all_threads=fixed)
        context.set_threads(mode.threads)
        self._spin.set(spin=mode.spin)
        lost_time = LostTime(mode.threads, spin=mode.spin and self._spin.works)
        context.decode(self._batch)
        self._control.observe(num_tokens, *lost_time.stop())
        self._last_step = time.perf_counter()

    def _draw(self, sequence: Sequence, context: Context, row: int) -> DrawnToken | EngineError:
        try:
            token, logprob = self._samplers[sequence].sample(context, row)
        except EngineError as error:
            return error
        except Exception as error:  # noqa: BLE001  (a bug; its request must hear of it, no other)
            return EngineError(f"no token could be drawn: {error!r}")
        return DrawnToken(token, self._model.is_end_of_generation(token), logprob)
