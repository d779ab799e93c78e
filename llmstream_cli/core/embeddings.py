"""Vectors of texts: which are computed together, and what is made of them.

Two ways:

1. An encoder, or whatever looks ahead in a text, computes each text at once, as many texts together
   as have `_MAX_TOKENS`; llama.cpp pools. A longer text is computed alone.
2. A model that reads from left to right, as those for chat do, computes texts in parts of a few
   tokens, so that the step loop can let answers go on in between. The pooling is done here: a
   logit for each token of a long text would take gigabytes.

Requests take turns, a step each.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmstream_cli.api import Embeddings
from llmstream_cli.core.llama import Batch, DecodeAbortedError, EmbeddingContext, Model
from llmstream_cli.errors import EngineError
from llmstream_cli.machine import default_threads

if TYPE_CHECKING:
    from llmstream_cli.core.llama.embedding_context import Vectors

_MAX_TOKENS = 512  # of an encoder's step with several texts
_PART_TOKENS = 63  # of a step in parts: from 64 rows on, ggml's kernels round differently
_MIN_PART_TOKENS = 17  # below, kernels round differently too
_GAP_SECONDS = 0.1  # for which a step in parts may hold up answers
_MAX_SEQS = 16  # texts of a step
_FIRST_CTX_SIZE = 512  # until a text needs more


@dataclass(slots=True, eq=False)
class _Text:
    tokens: Sequence[int]
    request: "_Request"
    seq_id: int = -1
    num_computed: int = 0
    vector: "Vectors | None" = None  # the sum of its tokens' vectors, or the one that counts


@dataclass(slots=True, eq=False)
class _Request:
    request_id: int
    waiting: deque[_Text] = field(default_factory=deque)  # which nothing has been computed of


class Embedder:
    """Computes vectors with a context of its own, made on first use. One thread drives it."""

    def __init__(self, model: Model, *, threads: int | None) -> None:
        self._model = model
        self._threads = threads or default_threads()
        self._pooling = model.pooling or "mean"
        self._in_parts = model.is_causal and self._pooling != "rank"
        self._context: EmbeddingContext | None = None
        self._batch = Batch(1)
        self._requests: dict[int, _Request] = {}  # whose turn it is next, first
        self._begun: _Text | None = None  # which the last step has computed a part of
        self._aborted = False
        self._token_seconds = 0.0  # that a token took in the last step
        self.num_tokens = 0  # computed so far

    @property
    def has_work(self) -> bool:
        return bool(self._requests)

    def add(self, request_id: int, inputs: Sequence[Sequence[int]]) -> None:
        request = self._requests[request_id] = _Request(request_id)
        request.waiting.extend(_Text(tokens, request) for tokens in inputs)

    def cancel(self, request_id: int) -> None:
        """Forget a request; nothing happens to one that has ended."""
        request = self._requests.pop(request_id, None)
        if self._begun is not None and self._begun.request is request:
            self._end(self._begun)
            self._begun = None

    def abort(self) -> None:
        """End the running step, and every later one; from any thread."""
        self._aborted = True
        if (context := self._context) is not None:
            context.abort()

    def close(self) -> None:
        if self._context is not None:
            self._context.close()

    def step(self, *, hurried: bool = False) -> list[tuple[int, Embeddings | EngineError]]:
        """Compute a batch; return the vectors of the texts that end in it, by request.

        `hurried` keeps a step in parts short, for answers wait for its end.

        Raises:
            DecodeAbortedError: `abort` was called.
        """
        first = next(iter(self._requests))
        parts: list[tuple[_Text, int]] = []
        try:
            self._choose(parts, self._max_tokens(hurried=hurried))
            started = time.perf_counter()
            self._compute(parts)
            num_tokens = sum(count for _, count in parts)
            self._token_seconds = (time.perf_counter() - started) / num_tokens
            results = self._results(text for text, _ in parts if text is not self._begun)
        except DecodeAbortedError:
            raise
        except EngineError as error:
            for text, _ in parts:
                self._end(text)
            failed = {first, *(text.request.request_id for text, _ in parts)}
            for request_id in failed:
                self.cancel(request_id)
            return [(request_id, error) for request_id in failed]
        if first in self._requests:
            self._requests[first] = self._requests.pop(first)
        return results

    def _max_tokens(self, *, hurried: bool) -> int:
        if not self._in_parts:
            return _MAX_TOKENS
        if not hurried or not self._token_seconds:
            return _PART_TOKENS
        affordable = int(_GAP_SECONDS / self._token_seconds)
        return max(_MIN_PART_TOKENS, min(affordable, _PART_TOKENS))

    def _choose(self, parts: list[tuple[_Text, int]], free: int) -> None:
        """Fill a batch: with texts, and how many tokens of each; the last may be a part of one."""
        seq_ids = set(range(_MAX_SEQS))
        if (begun := self._begun) is not None:
            seq_ids.remove(begun.seq_id)
            parts.append((begun, min(free, len(begun.tokens) - begun.num_computed)))
            free -= parts[0][1]
        for request in self._requests.values():
            while request.waiting and seq_ids and free > 0:
                text = request.waiting[0]
                count = min(len(text.tokens), free) if self._in_parts else len(text.tokens)
                if parts and (count > free or not self._has_room(text)):
                    break
                if not parts:
                    self._make_room(text)
                text.seq_id = seq_ids.pop()
                parts.append((request.waiting.popleft(), count))
                free -= count

    def _needed_ctx_size(self, text: _Text) -> int:
        if self._in_parts:
            return len(text.tokens) + _PART_TOKENS  # beside those that end in the same step
        return max(len(text.tokens), _MAX_TOKENS)

    def _has_room(self, text: _Text) -> bool:
        return self._context is not None and self._needed_ctx_size(text) <= self._context.ctx_size

    def _make_room(self, text: _Text) -> None:
        """Have a context for a text, where no other one is in it."""
        if self._has_room(text):
            return
        size = _FIRST_CTX_SIZE
        while size < self._needed_ctx_size(text):
            size *= 2
        if self._context is not None:
            self._context.close()
            self._context = None
        max_batch_tokens = _PART_TOKENS if self._in_parts else size
        self._context = EmbeddingContext(
            self._model,
            pooling=None if self._in_parts else self._pooling,
            ctx_size=size,
            max_batch_tokens=max_batch_tokens,
            max_seqs=_MAX_SEQS,
            threads=self._threads,
        )
        self._batch = Batch(max_batch_tokens)
        if self._aborted:
            self._context.abort()

    def _compute(self, parts: Sequence[tuple[_Text, int]]) -> None:
        assert self._context is not None
        self._batch.clear()
        for text, count in parts:
            for position in range(text.num_computed, text.num_computed + count):
                self._batch.add(text.tokens[position], position, text.seq_id, output=True)
        self._context.compute(self._batch)
        num_tokens = sum(count for _, count in parts)
        self.num_tokens += num_tokens
        rows = self._context.token_vectors(num_tokens) if self._in_parts else None
        start = 0
        for text, count in parts:
            text.num_computed += count
            if rows is None:
                text.vector = self._context.pooled(text.seq_id)
            else:
                self._pool(text, rows[start : start + count])
            start += count
        last, _ = parts[-1]
        self._begun = last if last.num_computed < len(last.tokens) else None

    def _pool(self, text: _Text, rows: "Vectors") -> None:
        """Add to a text's vector what has been computed of it."""
        match self._pooling:
            case "mean":
                total = rows.sum(axis=0, dtype="float64")
                text.vector = total if text.vector is None else text.vector + total
            case "cls":
                text.vector = rows[0].copy() if text.vector is None else text.vector
            case _:
                text.vector = rows[-1].copy()

    def _end(self, text: _Text) -> None:
        if self._context is not None:
            self._context.forget(text.seq_id)

    def _results(self, ended: Iterable[_Text]) -> list[tuple[int, Embeddings | EngineError]]:
        by_request: dict[_Request, list[_Text]] = {}
        for text in ended:
            self._end(text)
            by_request.setdefault(text.request, []).append(text)
        results = list[tuple[int, Embeddings | EngineError]]()
        for request, texts in by_request.items():
            begun = self._begun is not None and self._begun.request is request
            finished = not request.waiting and not begun
            vectors = tuple(self._packed(text) for text in texts)
            num_tokens = sum(len(text.tokens) for text in texts)
            results.append((request.request_id, Embeddings(vectors, num_tokens, finished)))
            if finished:
                del self._requests[request.request_id]
        return results

    def _packed(self, text: _Text) -> bytes:
        import numpy as np

        vector = np.asarray(text.vector, dtype=np.float64)
        if not np.isfinite(vector).all():
            raise EngineError("the model computed a vector with numbers that are not finite")
        length = float(np.linalg.norm(vector))
        if self._pooling != "rank" and length:
            vector = vector / length  # by which a sum is as good as a mean
        return vector.astype("<f4").tobytes()
