"""What `llmstream bench` asks, and what it makes of the answers' times. Pure: no clock, no I/O.

A run sends one prompt on each of a number of streams, all at once. Two kinds of prompts, alike in
length and form, differ only in what their streams have in common:

- distinct: nothing, so each prompt has to be computed;
- shared: all but a short question at the end, as with a long system prompt or a document.

No run repeats a prompt of another one, or its answers would come from a prefix cache.
"""

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Literal

Prefix = Literal["distinct", "shared"]

# Common enough that each, with the space before it, is one token to the usual vocabularies.
_WORD_LIST = (
    "water light house river stone paper green yellow summer winter morning evening garden bridge "
    "window table chair kitchen street market village city country island ocean mountain forest "
    "field flower tree leaf root seed grain bread butter cheese apple orange lemon sugar salt oil "
    "fire smoke wind rain snow cloud storm sky sun moon star earth sand metal iron steel silver "
    "gold glass wood cotton leather cloth shirt shoe hat coat button pocket bag box key door wall "
    "floor roof room bed lamp mirror picture frame color shape line circle square point edge "
    "corner middle center side front back left right north south east west road path track train "
    "ship boat car wheel engine machine tool hammer screw rope chain wire pipe pump tank bottle "
    "cup plate bowl knife fork spoon book page letter word story song music dance game ball team "
    "player coach teacher student doctor nurse farmer driver pilot captain soldier king queen "
    "prince friend mother father sister brother child baby uncle horse cow sheep goat dog cat bird "
    "fish snake mouse lion tiger bear wolf fox rabbit"
)
_WORDS = _WORD_LIST.split()

_QUESTION_TOKENS = 14  # about, the line breaks before it included

MIN_PROMPT_TOKENS = 32


def build_prompts(
    prefix: Prefix, *, streams: int, prompt_tokens: int, run: int, seed: int
) -> list[str]:
    """Return a prompt for each stream; the same for the same arguments.

    Args:
        prefix: what the prompts have in common.
        streams: how many prompts.
        prompt_tokens: length of each, about; a chat template adds its own.
        run: number of the run, which makes its prompts unlike those of another.
        seed: number of the benchmark, which does the same.
    """
    prompts = []
    for stream in range(streams):
        text_of = "all" if prefix == "shared" else stream
        text = _words(prompt_tokens - _QUESTION_TOKENS, f"text {seed} {run} {text_of}")
        first, second = _words(2, f"question {seed} {run} {stream}")
        question = f"{stream + 1}. Tell a long story about the {first} and the {second}."
        prompts.append(" ".join(text) + "\n\n" + question)
    return prompts


def _words(count: int, seed: str) -> list[str]:
    return random.Random(seed).choices(_WORDS, k=count)  # noqa: S311  (no secret)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost, as reported.

    Attributes:
        prompt_tokens: tokens of the rendered prompt.
        completion_tokens: tokens of the answer.
        cached_tokens: of the prompt's, those not computed again; None where it is not reported.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One stream of a run. Times are in seconds of one clock.

    Attributes:
        started: when the request was made.
        pieces: when each piece of text came, in order.
        ended: when the stream ended.
        cost: None where it is not reported.
        error: why the stream failed; None if it is complete.
    """

    started: float
    pieces: tuple[float, ...]
    ended: float
    cost: Cost | None = None
    error: str | None = None

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer; its pieces where the cost is not reported."""
        return len(self.pieces) if self.cost is None else self.cost.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run measured; failed streams count as errors and nowhere else.

    None is what cannot be said: no stream was complete, none had two pieces, nothing was reported.

    Attributes:
        wall_seconds: from the first request to the end of the last stream, failed ones included.
        prompt_tokens: of all prompts.
        cached_tokens: of these, those not computed again.
        generated_tokens: of all answers.
        prompt_tokens_per_second: all prompts, from the first request until each stream has begun
            to answer; cached tokens count, and streams that answer already take their share.
        generated_tokens_per_second: all answers, over the whole run.
        decode_tokens_per_second: all answers, while every stream was answering: from the first
            piece of the last to begin, to the last piece of the first to end.
        first_token_p50_seconds: from a request to its first piece of text, median.
        first_token_p95_seconds: the same, 95th percentile.
        gap_p50_seconds: between two pieces of one stream, median over all gaps of all streams.
        gap_p95_seconds: the same, 95th percentile.
        gap_max_seconds: the longest.
    """

    wall_seconds: float | None
    prompt_tokens: float | None
    cached_tokens: float | None
    generated_tokens: float | None
    prompt_tokens_per_second: float | None
    generated_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    first_token_p50_seconds: float | None
    first_token_p95_seconds: float | None
    gap_p50_seconds: float | None
    gap_p95_seconds: float | None
    gap_max_seconds: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        figures: what it measured.
        errors: why streams failed, one line for each that did.
        counted_pieces: whether a server did not report its tokens, so that pieces of text had to
            stand for them.
    """

    figures: Figures
    errors: tuple[str, ...]
    counted_pieces: bool


def evaluate(answers: Sequence[Answer]) -> Run:
    """Turn the times of a run's streams, at least one, into its figures."""
    complete = [answer for answer in answers if answer.error is None]
    return Run(
        figures=_figures(answers, complete),
        errors=tuple(answer.error for answer in answers if answer.error is not None),
        counted_pieces=any(answer.cost is None for answer in complete),
    )


def _figures(answers: Sequence[Answer], complete: Sequence[Answer]) -> Figures:
    began = min(answer.started for answer in answers)
    wall_seconds = max(answer.ended for answer in answers) - began
    begun = [answer for answer in complete if answer.pieces]
    waits = [answer.pieces[0] - answer.started for answer in begun]
    all_begun = max((answer.pieces[0] for answer in begun), default=began)
    gaps = [later - earlier for answer in complete for earlier, later in pairwise(answer.pieces)]
    costs = [answer.cost for answer in complete]
    prompt_tokens = _total(cost.prompt_tokens if cost else None for cost in costs)
    cached_tokens = _total(cost.cached_tokens if cost else None for cost in costs)
    generated_tokens = _total(answer.generated_tokens for answer in complete)
    return Figures(
        wall_seconds=wall_seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        generated_tokens=generated_tokens,
        prompt_tokens_per_second=_rate(prompt_tokens, all_begun - began),
        generated_tokens_per_second=_rate(generated_tokens, wall_seconds),
        decode_tokens_per_second=_decode_rate(begun),
        first_token_p50_seconds=percentile(waits, 50),
        first_token_p95_seconds=percentile(waits, 95),
        gap_p50_seconds=percentile(gaps, 50),
        gap_p95_seconds=percentile(gaps, 95),
        gap_max_seconds=max(gaps, default=None),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    """Add up; None if one is unknown, or there is none."""
    total = None
    for count in counts:
        if count is None:
            return None
        total = (total or 0) + count
    return total


def _rate(tokens: float | None, seconds: float) -> float | None:
    return tokens / seconds if tokens is not None and seconds > 0 else None


def _decode_rate(answers: Sequence[Answer]) -> float | None:
    """Tokens per second while all of the answers, each with a piece or more, were coming."""
    if not answers:
        return None
    begin = max(answer.pieces[0] for answer in answers)
    end = min(answer.pieces[-1] for answer in answers)
    tokens = 0.0
    for answer in answers:
        # A piece has as many tokens as the answer's average: nobody reports it for each.
        pieces = sum(begin < time <= end for time in answer.pieces)
        tokens += pieces * answer.generated_tokens / len(answer.pieces)
    return _rate(tokens, end - begin)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile, interpolated between its neighbours as numpy does; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def medians(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure, over the runs that have it."""
    merged: dict[str, Any] = {}
    for field in fields(Figures):
        known = [value for run in runs if (value := getattr(run, field.name)) is not None]
        merged[field.name] = statistics.median(known) if known else None
    return Figures(**merged)
