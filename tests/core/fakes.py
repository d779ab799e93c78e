"""A runner without a model, and a clock that only moves when it is told to."""

from collections.abc import Callable, Mapping

from llmstream_cli.api import SamplingParams
from llmstream_cli.core.scheduler import DrawnToken, ScheduledTokens, Step
from llmstream_cli.core.sequence import Sequence
from llmstream_cli.errors import ContextMemoryError, EngineError

# A fake token is `request * TOKENS + kind`, where kind is PROMPT, END, or FIRST_BYTE + a byte of
# the answer. So every token tells whose it is.
TOKENS = 1000
PROMPT, END, FIRST_BYTE = 0, 1, 2


class FakeClock:
    """Seconds that pass when somebody adds to `now`."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeRunner:
    """Keeps a KV cache of plain lists, one for each slot, and lets `model` continue them.

    What it draws depends on nothing but the cache: a slot that two sequences share, or a token
    that was left out, spoils the answers as it would on a real model.
    """

    def __init__(
        self, model: Callable[[list[int]], DrawnToken], clock: FakeClock, *, partial: bool = True
    ) -> None:
        self._model = model
        self._clock = clock
        self._partial = partial
        self.cache: dict[int, list[int]] = {}  # the tokens computed in each slot
        self.params: dict[Sequence, SamplingParams] = {}  # of those added and not yet removed
        self.removed: list[Sequence] = []
        self.begun: list[str] = []  # texts behind which constraints were to hold
        self.add_error: Exception | None = None  # raised by the next `add`, once
        self.run_error: Exception | None = None  # raised by the next `run`, once
        self.draw_errors: dict[Sequence, EngineError] = {}  # in place of its next token, once
        self.step_seconds = 1.0
        self.step = Step()  # the last one
        # It grows as far as memory goes, some steps after it was first asked for unless waited for.
        self.ctx_size = self.memory_tokens = 1_000_000
        self.growth_steps = self._asked = 0
        self.waiting_for_grammar: set[Sequence] = set()

    def make_room(self, num_tokens: int, *, wait: bool) -> bool:
        if num_tokens <= self.ctx_size:
            return True
        if num_tokens > self.memory_tokens:
            raise ContextMemoryError("no memory")
        self._asked += 1
        if not wait and self._asked <= self.growth_steps:
            return False
        self.ctx_size, self._asked = num_tokens, 0
        return True

    def held(self) -> set[Sequence]:
        return self.waiting_for_grammar

    def add(
        self,
        sequence: Sequence,
        params: SamplingParams,
        constraint: object = None,
        constrained: SamplingParams | None = None,
    ) -> None:
        error, self.add_error = self.add_error, None
        if error is not None:
            raise error
        assert sequence not in self.params
        self.params[sequence] = params

    def begin_constraint(self, sequence: Sequence, text: str) -> None:
        self.begun.append(text)

    def remove(self, sequence: Sequence) -> None:
        del self.params[sequence]
        self.removed.append(sequence)

    def run(self, step: Step) -> dict[Sequence, DrawnToken | EngineError]:
        self.step = step
        assert step.parts
        self._clock.now += self.step_seconds
        for reuse in step.reuses:
            source = self.cache.get(reuse.source, [])
            assert reuse.num_tokens <= len(source)
            assert self._partial or (not reuse.is_copy and reuse.num_tokens in {0, len(source)})
            self.cache[reuse.slot] = source[: reuse.num_tokens]
        error, self.run_error = self.run_error, None
        if error is not None:
            raise error
        return {
            part.sequence: self.draw_errors.pop(part.sequence, token)
            for part in step.parts
            if (token := self._compute(part)) is not None
        }

    def _compute(self, part: ScheduledTokens) -> DrawnToken | None:
        sequence = part.sequence
        assert sequence in self.params
        assert sequence.slot is not None
        cache = self.cache[sequence.slot]
        assert cache == sequence.token_ids[: part.start]
        cache += sequence.token_ids[part.start : part.end]
        assert len(cache) <= self.ctx_size
        return self._model(cache) if part.samples else None


def prompt(request: int, num_tokens: int) -> list[int]:
    """A prompt whose tokens are all of this request."""
    return [request * TOKENS + PROMPT] * num_tokens


def scripted(answers: Mapping[int, bytes]) -> Callable[[list[int]], DrawnToken]:
    """A model that gives each request its answer, a byte at a time, and then ends the turn."""

    def model(tokens: list[int]) -> DrawnToken:
        request = tokens[0] // TOKENS
        assert {token // TOKENS for token in tokens} == {request}
        rest = answers[request][sum(token % TOKENS >= FIRST_BYTE for token in tokens) :]
        if not rest:
            return DrawnToken(request * TOKENS + END, ends_turn=True)
        return DrawnToken(request * TOKENS + FIRST_BYTE + rest[0], ends_turn=False)

    return model


def piece(token: int) -> bytes:
    """The byte of a token of an answer; other tokens have none."""
    assert token % TOKENS >= FIRST_BYTE
    return bytes([token % TOKENS - FIRST_BYTE])
