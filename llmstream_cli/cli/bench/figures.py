"""What `llmstream bench` asks, and what it makes of the answers' times. Pure: no clock, no I/O.

A run sends one prompt on each of a number of streams, all at once. Two kinds of prompts, alike in
length and form, differ only in what their streams have in common:

- distinct: nothing, so each prompt has to be computed;
- shared: all but a short question at the end, as with a long system prompt or a document.

No run repeats a prompt of another one, or its answers would come from a prefix cache.
"""

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

from llmstream_cli.api import Usage

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

    They have about `prompt_tokens` tokens each; a chat template adds its own. Another `run` or
    `seed` has other prompts.
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
class Answer:
    """One stream of a run; times are in seconds of one clock."""

    started: float
    pieces: tuple[float, ...]  # when each piece of text came, in order
    ended: float
    usage: Usage | None = None  # None where it is not reported
    error: str | None = None  # why it failed; None if it is complete

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer; its pieces where these are not reported."""
        return len(self.pieces) if self.usage is None else self.usage.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a run measured; failed streams count as errors and nowhere else.

    None is what cannot be said: no stream was complete, none had two pieces, nothing was reported.
    """

    wall_seconds: float | None  # from the first request to the end of the last stream, failed too
    prompt_tokens: float | None
    cached_tokens: float | None  # of the prompts', those not computed again
    generated_tokens: float | None
    # All prompts, from the first request until each stream has begun to answer: cached tokens
    # count, and streams that answer already take their share.
    prompt_tokens_per_second: float | None
    generated_tokens_per_second: float | None  # all answers, over the whole run
    # All answers while every stream was answering: from the first piece of the last to begin, to
    # the last piece of the first to end.
    decode_tokens_per_second: float | None
    first_token_p50_seconds: float | None  # from a request to its first piece of text
    first_token_p95_seconds: float | None
    gap_p50_seconds: float | None  # between two pieces of one stream, over all gaps of all streams
    gap_p95_seconds: float | None
    gap_max_seconds: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what it measured, and why streams failed, in a line for each that did."""

    figures: Figures
    errors: tuple[str, ...]
    counted_pieces: bool  # pieces of text had to stand for tokens that were not reported


def evaluate(answers: Sequence[Answer]) -> Run:
    """Turn the times of a run's streams, at least one, into its figures."""
    complete = [answer for answer in answers if answer.error is None]
    began = min(answer.started for answer in answers)
    wall_seconds = max(answer.ended for answer in answers) - began
    begun = [answer for answer in complete if answer.pieces]
    waits = [answer.pieces[0] - answer.started for answer in begun]
    all_begun = max((answer.pieces[0] for answer in begun), default=began)
    gaps = [later - earlier for answer in complete for earlier, later in pairwise(answer.pieces)]
    usages = [answer.usage for answer in complete]
    prompt_tokens = _total(usage.prompt_tokens if usage else None for usage in usages)
    generated_tokens = _total(answer.generated_tokens for answer in complete)
    figures = Figures(
        wall_seconds=wall_seconds,
        prompt_tokens=prompt_tokens,
        cached_tokens=_total(usage.cached_tokens if usage else None for usage in usages),
        generated_tokens=generated_tokens,
        prompt_tokens_per_second=_rate(prompt_tokens, all_begun - began),
        generated_tokens_per_second=_rate(generated_tokens, wall_seconds),
        decode_tokens_per_second=_decode_rate(begun),
        first_token_p50_seconds=_percentile(waits, 50),
        first_token_p95_seconds=_percentile(waits, 95),
        gap_p50_seconds=_percentile(gaps, 50),
        gap_p95_seconds=_percentile(gaps, 95),
        gap_max_seconds=max(gaps, default=None),
    )
    errors = tuple(answer.error for answer in answers if answer.error is not None)
    return Run(figures, errors, counted_pieces=None in usages)


def _total(counts: Iterable[int | None]) -> int | None:
    """Add up; None if one is unknown, or there is none."""
    known = list(counts)
    return sum(count or 0 for count in known) if known and None not in known else None


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


def _percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile, interpolated between its neighbours; None of nothing."""
    if len(values) < 2:  # noqa: PLR2004  (of one value, all percentiles are it)
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def medians(runs: Sequence[Figures]) -> Figures:
    """Return the median of each figure, over the runs that have it."""
    merged: dict[str, float | None] = {}
    for field in fields(Figures):
        known = [value for run in runs if (value := getattr(run, field.name)) is not None]
        merged[field.name] = statistics.median(known) if known else None
    return Figures(**merged)
