"""`llmstream bench`: on the real model as a user runs it, and in this process against a server."""

import asyncio
import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from llmstream_cli.cli.bench.command import parameters_of, parse_streams
from llmstream_cli.cli.bench.options import BenchOptions
from llmstream_cli.errors import InvalidValueError
from tests.candle_files import write_model, write_tokenizer
from tests.cli.ask.test_ask import COMMAND, TIMEOUT, modules_loaded_by
from tests.cli.conftest import Cli
from tests.fake_openai import (
    ROLE,
    FakeServer,
    Reply,
    answer_events,
    answer_json,
    delta,
    serving,
    story,
)
from tests.preset_sources import source

BENCH = [*COMMAND, "bench"]
TINY = ("--prompt-tokens", "32", "--max-tokens", "4", "--repeat", "1")
LOCAL = ("--threads", "1", *TINY)
KEY = "sk-secret"
PUFFIN = source("puffin")

Run = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def server(reply: Reply | Callable[[int], Reply]) -> Iterator[FakeServer]:
    """Run a server on a thread of its own."""
    started: queue.Queue[tuple[FakeServer, asyncio.AbstractEventLoop, asyncio.Event]]
    started = queue.Queue()

    async def serve() -> None:
        end = asyncio.Event()
        async with serving(reply) as fake:
            started.put((fake, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    fake, loop, end = started.get(timeout=TIMEOUT)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


@pytest.fixture
def run(cli: Cli) -> Run:
    """Measure a server; return the exit code and both outputs."""

    def run(fake: FakeServer, *arguments: str) -> tuple[int, str, str]:
        code, output, complaints = cli(
            "bench", "--url", fake.url, *TINY, *arguments, LLMSTREAM_API_KEY=KEY
        )
        assert KEY not in output + complaints
        return code, output, complaints

    return run


def rows(output: str) -> list[list[str]]:
    """The lines of the tables that have figures."""
    cells = [line.split() for line in output.splitlines()]
    return [row for row in cells if row and row[0].isdigit()]


# ---- the engine in this process -------------------------------------------------------------


@pytest.mark.slow
def test_a_model_without_a_template_is_measured_with_its_preset_s_or_a_named_one(
    own_caches: Path, cli: Cli
) -> None:
    write_tokenizer(own_caches / "tokenizer.json")
    bench = ("bench", *LOCAL, "--streams", "1", "--prefix", "distinct", "--ctx-size", "1000", "-m")
    puffin = write_model(own_caches / PUFFIN.file)
    assert cli(*bench, str(puffin))[0] == 0
    other = str(puffin.rename(own_caches / "weights.gguf"))
    code, _, complaints = cli(*bench, other)
    assert (code, "name one with --template" in complaints) == (1, True)
    assert cli(*bench, other, "--template", "vicuna")[0] == 0


@pytest.mark.slow
def test_json_of_the_real_model(cli: Cli) -> None:
    code, told, complaints = cli("bench", *LOCAL, "--streams", "1,2", "--json")
    assert (code, complaints) == (0, "")
    report = json.loads(told)
    assert (report["program"], report["engine"], report["url"]) == ("llmstream", "in-process", None)
    assert report["model"] == "SmolLM2-135M-Instruct.Q4_1"
    assert report["parameters"] == {
        "streams": [1, 2],
        "prefixes": ["distinct", "shared"],
        "prompt_tokens": 32,
        "max_tokens": 4,
        "repeat": 1,
        "seconds": None,
        "seed": 0,
        "ctx_size": 108,
        "threads": 1,
    }
    assert (report["complete"], report["tokens_counted_by"]) == (True, "usage")
    results = report["results"]
    measured = [(result["prefix"], result["streams"]) for result in results]
    assert measured == [(prefix, n) for n in (1, 2) for prefix in ("distinct", "shared")]
    for result in results:
        figures = result["median"]
        assert result["errors"] == 0
        assert 0 < figures["generated_tokens"] <= 4 * result["streams"]
        assert figures["prompt_tokens"] > 32 * result["streams"]  # the template adds some
        unknown = {name for name, value in figures.items() if value is None}
        assert unknown <= {"decode_tokens_per_second"}  # where one ends before another begins


@pytest.mark.slow
def test_a_terminal_gets_a_table_and_progress() -> None:
    child = pexpect.spawn(
        sys.executable,
        [*BENCH[1:], *LOCAL, "--streams", "1"],
        timeout=TIMEOUT,
        encoding="utf-8",
        dimensions=(24, 80),
    )
    output = child.read()
    child.close()
    assert child.exitstatus == 0
    progress, _, report = output.rpartition("\r\x1b[K")
    assert "streams 1: " in progress
    assert report.startswith("llmstream ")
    assert ": SmolLM2-135M-Instruct.Q4_1 with --threads 1" in report
    assert report.index("distinct prompts") < report.index("shared prompts")
    assert [len(row) for row in rows(report)] == [12, 12]


# ---- a server -------------------------------------------------------------------------------


def test_json_of_a_server(run: Run) -> None:
    with server(answer_events(*story())) as fake:
        arguments = ("--streams", "1,3", "--json", "--repeat", "2", "--seed", "5")
        code, output, complaints = run(fake, *arguments)
    assert (code, complaints) == (0, "")
    report = json.loads(output)
    assert (report["engine"], report["url"], report["model"]) == ("openai", fake.url, "tiny")
    assert report["parameters"]["seed"] == 5
    assert report["parameters"]["threads"] is None
    for result in report["results"]:
        assert len(result["runs"]) == 2
        assert result["median"]["prompt_tokens"] == 40 * result["streams"]
        assert result["median"]["generated_tokens"] == 10 * result["streams"]
        assert result["median"]["cached_tokens"] == 16 * result["streams"]
    # A warm-up and two runs of both kinds, for each number of streams; no prompt comes twice.
    prompts = [request.body.pop("messages")[0]["content"] for request in fake.requests]
    assert len(prompts) == 5 * 1 + 5 * 3
    assert len(set(prompts)) == len(prompts)
    for request in fake.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body == {
            "model": "tiny",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.0,
            "max_tokens": 4,
        }


def test_a_server_meets_new_prompts_each_time(run: Run) -> None:
    with server(answer_events(*story())) as fake:
        for _ in range(2):
            run(fake, "--streams", "1", "--prefix", "distinct")
    prompts = [request.body["messages"][0]["content"] for request in fake.requests]
    assert len(set(prompts)) == len(prompts) == 4


def test_reasoning_counts_and_tokens_that_are_not_reported_are_counted(run: Run) -> None:
    reply = answer_events(ROLE, delta(reasoning_content="Hm."), *story(usage=None)[1:])
    with server(reply) as fake:
        arguments = ("--streams", "1", "--prefix", "shared")
        _, text, _ = run(fake, *arguments)
        _, output, _ = run(fake, *arguments, "--json")
    assert "\nthe server reports no usage: pieces of text are counted as tokens\n" in text
    (row,) = rows(text)
    assert (row[1], row[-2]) == ("-", "-")  # prompt tokens/s, cached tokens
    report = json.loads(output)
    assert report["tokens_counted_by"] == "pieces"
    assert report["results"][0]["median"]["generated_tokens"] == 6
    assert report["results"][0]["median"]["prompt_tokens"] is None


def test_failed_requests_are_counted_and_told(run: Run) -> None:
    def reply(number: int) -> Reply:
        if number == 3:  # the first two are the warm-up
            return answer_json({"error": {"message": "on\x1b[31m fire"}}, "500 Oops")
        return answer_events(*story())

    with server(reply) as fake:
        code, output, complaints = run(fake, "--streams", "2")
    assert code == 1
    assert (
        complaints
        == "llmstream: 1 requests failed, first: the server failed (HTTP 500: on[31m fire)\n"
    )
    assert [row[-1] for row in rows(output)] == ["1", "0"]


def test_a_server_that_only_fails_is_one_line(run: Run) -> None:
    refusal = answer_json({"error": {"message": f"the key {KEY} is wrong"}}, "401 Unauthorized")
    with server(refusal) as fake:
        code, output, complaints = run(fake, "--streams", "2")
    assert (code, output) == (1, "")
    assert complaints == (
        "llmstream: the server does not take this API key (HTTP 401: the key *** is wrong)\n"
    )
    assert len(fake.requests) == 2  # it was not tried again


def test_what_was_measured_before_all_fails_is_printed(run: Run) -> None:
    with server(lambda n: answer_events(*story()) if n < 2 else answer_events()) as fake:
        code, output, complaints = run(fake, "--streams", "1,2", "--prefix", "shared")
    assert (code, complaints) == (1, "llmstream: the stream ended without [DONE]\n")
    assert "\nnot complete\n" in output
    assert [row[0] for row in rows(output)] == ["1"]


@pytest.mark.parametrize("answered", [0, 2])
def test_the_end_of_the_time_prints_what_was_measured(answered: int, run: Run) -> None:
    def reply(number: int) -> Reply:
        return answer_events(*story()) if number < answered else answer_events(hang=True)

    with server(reply) as fake:
        code, output, complaints = run(fake, "--seconds", "0.5")
    if answered:
        assert (code, complaints) == (0, "")
        assert "\nnot complete: it has 0.5 s; --seconds 0 takes as long as it needs\n" in output
        assert [row[0] for row in rows(output)] == ["1"]
    else:
        assert (code, output) == (1, "")
        assert complaints.startswith(
            "llmstream: nothing could be measured in 0.5 s; give --seconds"
        )


@pytest.mark.slow
def test_ctrl_c_prints_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTREAM_API_KEY", KEY)
    waiting = threading.Event()

    def reply(number: int) -> Reply:
        if number < 2:
            return answer_events(*story())
        waiting.set()
        return answer_events(*story()[:3], hang=True)

    command = [*COMMAND, "bench", "--streams", "1", "--json", *TINY, "--url"]
    with (
        server(reply) as fake,
        subprocess.Popen(
            [*command, fake.url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        assert waiting.wait(TIMEOUT)
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, complaints) == (130, b"")
    report = json.loads(output)
    assert report["complete"] is False
    assert [result["prefix"] for result in report["results"]] == ["distinct"]


@pytest.mark.parametrize(
    ("how", "seconds", "repeat", "streams"),
    [
        (BenchOptions(), 50.0, 1, 6),
        (BenchOptions(seconds=9), 9.0, 1, 6),
        (BenchOptions(seconds=0), None, 1, 6),
        (BenchOptions(repeat=2), None, 2, 6),
        (BenchOptions(streams="1"), None, 3, 1),
        (BenchOptions(streams="1", seconds=9), 9.0, 3, 1),
    ],
)
def test_without_a_word_on_the_workload_there_is_a_minute(
    how: BenchOptions, seconds: float | None, repeat: int, streams: int
) -> None:
    parameters = parameters_of(how)
    assert (parameters.seconds, parameters.repeat) == (seconds, repeat)
    assert len(parameters.streams) == streams


def test_the_key_is_no_default_that_help_shows(cli: Cli) -> None:
    _, told, _ = cli("bench", "--help", LLMSTREAM_API_KEY=KEY)
    assert KEY not in told
    assert "LLMSTREAM_API_KEY" in told


# ---- bad input: one line, and nothing else --------------------------------------------------

URL = ("--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--streams", "0"), 2, "--streams must be between 1 and 256"),
        (("--prefix", "none"), 2, "'none' is not one of"),
        (("--prompt-tokens", "31"), 2, "--prompt-tokens must be between 32 and"),
        (("--max-tokens", "0"), 2, "--max-tokens must be between 1 and"),
        (("--repeat", "0"), 2, "--repeat must be between 1 and 1000"),
        (("--seed", "-1"), 2, "--seed must be between 0 and"),
        (("--seconds", "-1"), 2, "--seconds must be between 0 and 1000000"),
        (("--threads", "0"), 2, "--threads must be between"),
        (("--ctx-size", "0"), 2, "--ctx-size must be between"),
        (("--prompt-tokens", "9000"), 2, "the model was trained with 8192"),
        (("--ctx-size", "40", *LOCAL), 1, "context length is 40 tokens"),
        (("-f", "zzz"), 1, "known: smollm2"),
        (("-f", "smollm2", "-m", "x.gguf"), 2, "give one of them"),
        (("-f", "smollm2", *URL), 2, "name none with it"),
        (("--tokenizer", "t.json", *URL), 2, "name none with it"),
        (("--template", "chatml", *URL), 2, "not with --url"),
        (("--threads", "1", *URL), 2, "not with --url"),
        (("--ctx-size", "100", *URL), 2, "not with --url"),
        (("-m", "no/such.gguf"), 1, "there is no file no/such.gguf"),
        (("--url-model", "tiny"), 2, "--url-model needs --url"),
        (("--api-key", "x"), 2, "--api-key is the key of another server"),
        (("--url", "ftp://127.0.0.1"), 2, "URL must be like http://127.0.0.1:8080"),
        (("--api-key", "a b", *URL), 2, "the API key has characters that no key can have"),
        (("--url-model", "tiny", *URL), 1, "cannot connect to http://127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], code: int, complaint: str, cli: Cli
) -> None:
    got, output, complaints = cli("bench", *arguments)
    assert (got, output, complaints.count("\n")) == (code, "", 1)
    assert complaints.startswith("llmstream: ")
    assert complaint in complaints


@pytest.mark.parametrize(
    ("text", "streams"),
    [("1", (1,)), ("1,2,4", (1, 2, 4)), (" 4, 2 ", (4, 2)), ("2,2,1,2", (2, 1)), ("256", (256,))],
)
def test_streams(text: str, streams: tuple[int, ...]) -> None:
    assert parse_streams(text) == streams
    for mistake in (",", ",one", ";2", ".5", ",257", "9" * 5000):
        with pytest.raises(InvalidValueError, match="--streams must be"):
            parse_streams(text + mistake)


# ---- start-up counts ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_engine_loads_no_http_client() -> None:
    loaded = modules_loaded_by("bench", *LOCAL, "--streams", "1", "--prefix", "shared")
    assert "llama_cpp.llama_cpp" in loaded
    assert "httpx2" not in loaded
