"""One scheduled step on the model: fill the batch, decode, sample."""

import time

from llmstream_cli.core.api import SamplingParams
from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.core.sampler import Sampler, TokenConstraint
from llmstream_cli.core.scheduler import DrawnToken, Step
from llmstream_cli.core.sequence import Sequence
from llmstream_cli.errors import EngineError, StepRefusedError

_FIRST_CTX_SIZE = 512
_GRAMMAR_SECONDS = 0.005  # that a step waits for grammars, most of which need 0.1 ms


class Runner:
    """Owns the context. For a single slot its KV cache starts small and doubles when outgrown.

    A cache for thousands of tokens takes a tenth of a second to clear and memory that a short
    answer never uses; moving a sequence to a larger one takes some milliseconds, a few times in a
    long answer.

    Args:
        model: what to run.
        max_seqs: how many slots there are.
        max_batch_tokens: the most tokens of one step.
        ctx_size: the most tokens of one sequence.
        threads: CPU threads.
    """

    def __init__(
        self, model: Model, *, max_seqs: int, max_batch_tokens: int, ctx_size: int, threads: int
    ) -> None:
        self._model = model
        self._ctx_size = ctx_size
        self._batch = Batch(max_batch_tokens)
        self._context = Context(
            model,
            ctx_size=min(ctx_size, _FIRST_CTX_SIZE) if max_seqs == 1 else ctx_size,
            max_seqs=max_seqs,
            max_batch_tokens=max_batch_tokens,
            threads=threads,
        )
        self._samplers: dict[Sequence, Sampler] = {}

    def add(
        self, sequence: Sequence, params: SamplingParams, constraint: TokenConstraint | None = None
    ) -> None:
        """Prepare to sample for a sequence, within a constraint where there is one."""
        self._samplers[sequence] = Sampler(
            self._model,
            params,
            prompt=sequence.token_ids,
            ctx_size=self._ctx_size,
            constraint=constraint,
        )

    def held(self) -> frozenset[Sequence]:
        """Return the sequences whose grammars cannot tell yet which token may come next.

        Waits a moment for those that could in time before.
        """
        deadline = time.monotonic() + _GRAMMAR_SECONDS
        return frozenset(
            sequence
            for sequence, sampler in self._samplers.items()
            if sampler.constraint is not None
            and not sampler.constraint.is_ready(max(0.0, deadline - time.monotonic()))
        )

    def remove(self, sequence: Sequence) -> None:
        """Forget how to sample for a sequence."""
        del self._samplers[sequence]

    def run(self, step: Step) -> dict[Sequence, DrawnToken | EngineError]:
        """Compute a step; draw a token for each part that reaches its sequence's end.

        Returns:
            The token of each such sequence, or why none can be drawn for it.

        Raises:
            StepRefusedError: llama.cpp refused the step, or there is no memory for it; what the
                slots held before it is good.
            EngineError: llama.cpp failed; no sequence can go on.
        """
        self._make_room(max(max(p.end, p.sequence.num_prompt_tokens) for p in step.parts))
        for reuse in step.reuses:
            if reuse.is_copy:
                self._context.copy_sequence(reuse.source, reuse.slot)
            self._context.truncate_sequence(reuse.slot, reuse.num_tokens)
        rows = self._fill(step)
        self._context.decode(self._batch)
        return {sequence: self._draw(sequence, row) for sequence, row in rows.items()}

    def abort(self) -> None:
        """End the running step early, for good; from any thread."""
        self._context.abort()

    def close(self) -> None:
        """Release the KV cache."""
        self._context.close()

    def _make_room(self, num_tokens: int) -> None:
        if num_tokens <= self._context.ctx_size:
            return
        size = self._context.ctx_size
        while size < num_tokens:
            size *= 2
        try:
            larger = self._context.grown(min(size, self._ctx_size))
        except EngineError as error:
            raise StepRefusedError(str(error)) from error
        self._context.close()
        self._context = larger

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

    def _draw(self, sequence: Sequence, row: int) -> DrawnToken | EngineError:
        try:
            token, logprob = self._samplers[sequence].sample(self._context, row)
        except EngineError as error:
            return error
        except Exception as error:  # noqa: BLE001  (a bug; its request must hear of it, no other)
            return EngineError(f"no token could be drawn: {error!r}")
        return DrawnToken(token, self._model.is_end_of_generation(token), logprob)
