"""The report of the benchmark, to the letter."""

import json

import llmstream_cli
from llmstream_cli.cli.bench.figures import Figures, Run
from llmstream_cli.cli.bench.report import Parameters, Report, as_json, as_text

PARAMETERS = Parameters(
    streams=(1, 16),
    prefixes=("distinct", "shared"),
    prompt_tokens=256,
    max_tokens=64,
    repeat=2,
    seconds=None,
    seed=7,
    ctx_size=448,
    threads=2,
)


def run(scale: float, *errors: str, counted_pieces: bool = False) -> Run:
    figures = Figures(
        wall_seconds=1.5 * scale,
        prompt_tokens=280,
        cached_tokens=None if counted_pieces else 24,
        generated_tokens=64,
        prompt_tokens_per_second=250.04 * scale,
        generated_tokens_per_second=31.27 * scale,
        decode_tokens_per_second=None,
        first_token_p50_seconds=0.5123 * scale,
        first_token_p95_seconds=9.9 * scale,
        gap_p50_seconds=0.00774 * scale,
        gap_p95_seconds=0.01 * scale,
        gap_max_seconds=0.12345678 * scale,
    )
    return Run(figures, errors, counted_pieces)


def report(*, url: str | None = None, counted_pieces: bool = False) -> Report:
    return Report(
        PARAMETERS,
        url,
        "tiny [bold]",
        {
            ("distinct", 1): [run(1), run(3, "on fire"), run(2)],
            ("shared", 1): [run(1)],
            ("distinct", 16): [run(10, counted_pieces=counted_pieces)],
        },
        complete=True,
    )


TEXT = f"""\
llmstream {llmstream_cli.__version__}: tiny [bold] with --threads 2
prompts of about 256 tokens, answers of at most 64; medians over runs: 2

distinct prompts
streams prompt   gen decode first first  gap  gap  gap wall cached errors
                              p50   p95  p50  p95  max
         tok/s tok/s  tok/s    ms    ms   ms   ms   ms    s
      1    500  62.5      -  1025 19800 15.5 20.0  247  3.0   24.0      1
     16   2500   313      -  5123 99000 77.4  100 1235 15.0   24.0      0

shared prompts
streams prompt   gen decode first first gap  gap gap wall cached errors
                              p50   p95 p50  p95 max
         tok/s tok/s  tok/s    ms    ms  ms   ms  ms    s
      1    250  31.3      -   512  9900 7.7 10.0 123  1.5   24.0      0
"""


def test_the_table() -> None:
    assert as_text(report()) == TEXT


def test_what_to_know_before_reading_the_figures() -> None:
    of_server = report(url="http://127.0.0.1:1", counted_pieces=True)
    of_server.complete = False
    head = as_text(of_server).splitlines()[:4]
    assert head[0].endswith("tiny [bold] at http://127.0.0.1:1")
    assert head[2:] == [
        "the server reports no usage: pieces of text are counted as tokens",
        "not complete",
    ]


def test_what_was_interrupted_at_once_has_no_model() -> None:
    nothing = Report(PARAMETERS, url=None)
    assert ": no model with --threads 2\n" in as_text(nothing)
    content = json.loads(as_json(nothing))
    assert (content["model"], content["complete"], content["results"]) == (None, False, [])


def test_json_has_all_runs_and_their_medians() -> None:
    content = json.loads(as_json(report(counted_pieces=True)))
    assert content["version"] == llmstream_cli.__version__
    assert content["tokens_counted_by"] == "pieces"
    first, _, last = content["results"]
    assert (first["prefix"], first["streams"], first["errors"]) == ("distinct", 1, 1)
    assert [measured["wall_seconds"] for measured in first["runs"]] == [1.5, 4.5, 3.0]
    assert [measured["errors"] for measured in first["runs"]] == [[], ["on fire"], []]
    assert first["median"]["wall_seconds"] == 3.0
    assert first["median"]["gap_max_seconds"] == 0.246914
    assert first["median"]["decode_tokens_per_second"] is None
    assert last["median"]["cached_tokens"] is None
