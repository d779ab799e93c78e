"""The synchronous heart of an engine: requests in, chunks out, one step at a time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    EngineMetrics,
    FinishReason,
    Progress,
    SamplingParams,
    Usage,
)
from llmstream_cli.core.model import EncodedRequest
from llmstream_cli.core.output import OutputStream
from llmstream_cli.core.prefix_cache import MIN_COPY_TOKENS
from llmstream_cli.core.reasoning import Phase
from llmstream_cli.core.runner import Runner
from llmstream_cli.core.scheduler import DrawnToken, Scheduler
from llmstream_cli.core.sequence import Sequence, SequenceStatus
from llmstream_cli.errors import ContextMemoryError, EngineError, StepRefusedError

_HELD_SECONDS = 0.005  # until it is looked again whether a grammar is ready, where all wait for one

_Produced = tuple[int, Chunk | EngineError]  # by one step, for the request of that id


@dataclass(slots=True, eq=False)
class _Answer:
    """A request on its way, with the times that its usage is made of."""

    request_id: int
    sequence: Sequence
    output: OutputStream
    stops: tuple[str, ...]  # that the request names; a turn's end may be one of the output's too
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    early_logprobs: list[DrawnLogprob] = field(default_factory=list)

    def answer_logprobs(self, logprob: DrawnLogprob | None) -> tuple[DrawnLogprob, ...]:
        """Return those of the tokens that prove to belong to the answer, not its reasoning."""
        if logprob is not None:
            self.early_logprobs.append(logprob)
        if self.output.phase is Phase.OPENING:
            return ()
        is_text = self.output.phase is Phase.ANSWER and not self.output.num_calls
        logprobs = tuple(self.early_logprobs) if is_text else ()
        self.early_logprobs.clear()
        return logprobs

    def usage(self, now: float) -> Usage:
        started = now if self.started is None else self.started
        first = now if self.first_token is None else self.first_token
        last = first if self.last_token is None else self.last_token
        return Usage(
            prompt_tokens=self.sequence.num_prompt_tokens,
            completion_tokens=self.sequence.num_output_tokens,
            prompt_seconds=first - started,
            completion_seconds=last - first,
            cached_tokens=self.sequence.num_cached_tokens,
            reasoning_tokens=self.output.num_reasoning_tokens,
        )


class EngineCore:
    """Scheduler, runner and outputs together. Not thread-safe: one thread drives it.

    `piece` gives a token's bytes, `clock` the seconds of `Usage`.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        piece: Callable[[int], bytes],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._piece = piece
        self._clock = clock
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = self._steps = 0
        self._step_seconds = 0.0
        self._by_id: dict[int, _Answer] = {}
        self._by_sequence: dict[Sequence, _Answer] = {}
        self._reporting: dict[Sequence, Progress | None] = {}  # and what was told last

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def metrics(self) -> EngineMetrics:
        scheduler, cache = self._scheduler, self._scheduler.cache
        return EngineMetrics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            slots=cache.num_slots,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            step_seconds=self._step_seconds,
            cache_tokens=cache.num_cached_tokens,
            cache_capacity=cache.num_slots * scheduler.ctx_size,
        )

    def add(self, request_id: int, encoded: EncodedRequest, params: SamplingParams) -> None:
        """Queue a request, under an id that no other has; what it raises harms nothing else."""
        assert request_id not in self._by_id
        sequence = Sequence(
            encoded.prompt, max_tokens=params.max_tokens, cache_scope=encoded.cache_scope
        )
        self._scheduler.add(sequence)
        try:
            self._runner.add(sequence, params, encoded.constraint, encoded.constrained)
        except Exception:  # whatever it is, the request must leave nothing behind
            self._scheduler.finish(sequence, FinishReason.CANCELLED)
            raise
        calls = None if encoded.calls is None else encoded.calls()
        output = OutputStream(
            (*params.stop, *encoded.turn_ends), encoded.splitter, calls, encoded.marks
        )
        answer = _Answer(request_id, sequence, output, params.stop)
        self._by_id[request_id] = self._by_sequence[sequence] = answer
        if encoded.report_progress:
            self._reporting[sequence] = None

    def cancel(self, request_id: int) -> Chunk | None:
        """End a request wherever it is; return its last chunk, None if it has ended already."""
        answer = self._by_id.get(request_id)
        if answer is None:
            return None
        self._scheduler.finish(answer.sequence, FinishReason.CANCELLED)
        return self._close(answer)

    def step(self) -> list[_Produced]:
        """Compute one step; return a chunk for each token drawn, and the progress of who tells it.

        Where llama.cpp refuses the step, its requests end, each with an error instead of a chunk;
        so does one for which no token can be drawn, or for whose prompt there is no memory.

        Raises:
            EngineError: the runner failed; no request can go on.
        """
        ended, growing = self._make_room()
        step = self._scheduler.schedule(growing | self._runner.held())
        if not step.parts:
            if self._scheduler.running:
                time.sleep(_HELD_SECONDS)
            return ended
        begun = self._clock()
        for part in step.parts:
            answer = self._by_sequence[part.sequence]
            if answer.started is None:
                answer.started = begun
                self._prompt_tokens += part.sequence.num_prompt_tokens
                self._cached_tokens += part.sequence.num_cached_tokens
        try:
            outcomes = self._runner.run(step)
        except StepRefusedError as error:
            return [*ended, *((self._fail(part.sequence), error) for part in step.parts)]
        seconds = self._clock() - begun
        self._steps += 1
        self._step_seconds += seconds
        drawn = {s: token for s, token in outcomes.items() if isinstance(token, DrawnToken)}
        self._scheduler.update(step, drawn, seconds)
        failed = [(s, error) for s, error in outcomes.items() if isinstance(error, EngineError)]
        results = [*ended, *self._chunks(drawn)]
        results += [(self._fail(s), error) for s, error in failed]
        results += self._report() if self._reporting else ()
        return results

    def _make_room(self) -> tuple[list[_Produced], set[Sequence]]:
        """Let the context grow to what the running sequences need, the longest first.

        Returns what ended for want of memory, an answer that has begun as one that has filled the
        context; and who has to wait, while others go on, until it has grown.
        """
        ended: list[_Produced] = []
        held: set[Sequence] = set()
        scheduler, wait, settled = self._scheduler, False, False
        while not settled:
            scheduler.admit()
            num_ended, held = len(ended), set()
            for sequence in sorted(scheduler.running, key=_num_tokens, reverse=True):
                try:
                    if not self._runner.make_room(_num_tokens(sequence), wait=wait):
                        held.add(sequence)
                except ContextMemoryError as error:
                    ended.append(self._end_without_memory(sequence, error))
            wait = bool(held) and len(held) == len(scheduler.running)
            settled = not wait and len(ended) == num_ended  # else others have got the slots
        # A copy moves the whole stream of a slot, used or not: the larger, the dearer.
        scheduler.cache.min_copy_tokens = max(MIN_COPY_TOKENS, self._runner.ctx_size // 256)
        return ended, held

    def _end_without_memory(self, sequence: Sequence, error: ContextMemoryError) -> _Produced:
        if not sequence.num_output_tokens:
            return self._fail(sequence), error
        answer = self._by_sequence[sequence]
        self._scheduler.finish(sequence, FinishReason.LENGTH)
        return answer.request_id, self._close(answer)

    def _fail(self, sequence: Sequence) -> int:
        """Forget a request that cannot go on; return its id."""
        self._scheduler.finish(sequence, FinishReason.CANCELLED)
        request_id = self._by_sequence[sequence].request_id
        self._forget(sequence)
        return request_id

    def _forget(self, sequence: Sequence) -> None:
        del self._by_id[self._by_sequence.pop(sequence).request_id]
        self._reporting.pop(sequence, None)
        self._runner.remove(sequence)

    def _report(self) -> Iterator[tuple[int, Chunk]]:
        before = {sequence: index for index, sequence in enumerate(self._scheduler.waiting)}
        for sequence, told in self._reporting.items():
            progress = Progress(
                before.get(sequence), sequence.num_computed_tokens, sequence.num_prompt_tokens
            )
            if progress != told:
                self._reporting[sequence] = progress
                yield self._by_sequence[sequence].request_id, Chunk("", progress=progress)

    def _chunks(self, drawn: Mapping[Sequence, DrawnToken]) -> Iterator[tuple[int, Chunk]]:
        now = self._clock()
        for sequence, token in drawn.items():
            answer = self._by_sequence[sequence]
            if answer.first_token is None:
                answer.first_token = now
                self._reporting.pop(sequence, None)
            if token.ends_turn:
                chunk = Chunk("")
            else:
                answer.last_token = now
                self._generated_tokens += 1
                delta = answer.output.push(self._piece(token.token_id), token.token_id)
                if (begun := answer.output.take_begun()) is not None:
                    self._runner.begin_constraint(sequence, begun)
                chunk = Chunk(
                    delta.text,
                    (token.token_id,),
                    logprobs=answer.answer_logprobs(token.logprob),
                    reasoning=delta.reasoning,
                    tool_calls=delta.tool_calls,
                )
            if answer.output.stopped:
                self._scheduler.finish(sequence, FinishReason.STOP)
            if sequence.status is SequenceStatus.FINISHED:
                chunk = self._close(answer, chunk)
            yield answer.request_id, chunk

    def _close(self, answer: _Answer, last: Chunk = Chunk("")) -> Chunk:  # noqa: B008  (immutable)
        """Forget a finished request; complete its last chunk."""
        self._forget(answer.sequence)
        rest = answer.output.flush()
        reason = answer.sequence.finish_reason
        if answer.output.stopped and reason is FinishReason.LENGTH:
            reason = FinishReason.STOP  # the last allowed token completed a stop string
        if answer.output.num_calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        stop = answer.output.stop_string
        return replace(
            last,
            text=last.text + rest.text,
            reasoning=last.reasoning + rest.reasoning,
            tool_calls=last.tool_calls + rest.tool_calls,
            logprobs=(*last.logprobs, *answer.early_logprobs),
            finish_reason=reason,
            usage=answer.usage(self._clock()),
            stop_string=stop if stop in answer.stops else "",
        )


def _num_tokens(sequence: Sequence) -> int:
    return len(sequence.token_ids)
