"""`llmstream bench` as a user runs it: on the real model, and against a fake server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from llmstream_cli.cli.bench import parse_streams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.models.presets import PRESETS
from tests.candle_files import write_model, write_tokenizer
from tests.cli.ask.test_ask import COMMAND, HEAVY, TIMEOUT, llmstream, modules_loaded_by
from tests.fake_openai import Reply, answer_events, answer_json, serving, story

BENCH = [*COMMAND, "bench"]
TINY = ("--prompt-tokens", "32", "--max-tokens", "4", "--repeat", "1")
LOCAL = ("--threads", "1", *TINY)
KEY = "sk-secret"
PUFFIN = PRESETS["puffin"].source

COLUMNS = [
    "prefix", "streams", "prompt_tok/s", "gen_tok/s", "decode_tok/s", "first_p50_ms",
    "first_p95_ms", "gap_p50_ms", "gap_p95_ms", "gap_max_ms", "wall_s", "cached", "errors",
]  # fmt: skip


async def bench(*arguments: str, interrupt: asyncio.Event | None = None) -> tuple[int, str, str]:
    """Run the command beside a server of this event loop; return exit code and outputs."""
    process = await asyncio.create_subprocess_exec(
        *BENCH,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LLMSTREAM_API_KEY": KEY},
    )
    if interrupt is not None:
        await interrupt.wait()
        process.send_signal(signal.SIGINT)
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert KEY.encode() not in stdout + stderr
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


def rows(output: str) -> Iterator[list[str]]:
    return (line.split() for line in output.splitlines() if not line.startswith("#"))


# ---- the engine in this process -------------------------------------------------------------


def test_a_model_without_a_template_is_measured_with_its_preset_s_or_a_named_one(
    own_caches: Path,
) -> None:
    write_tokenizer(own_caches / "tokenizer.json")
    run = ("--streams", "1", "--prefix", "distinct", "--json", *LOCAL, "--ctx-size", "1000")
    puffin = write_model(own_caches / PUFFIN.file)
    done = llmstream("bench", "-m", str(puffin), *run)
    assert done.returncode == 0, done.stderr
    other = puffin.rename(own_caches / "weights.gguf")
    done = llmstream("bench", "-m", str(other), *run)
    assert done.returncode == 1
    assert b"name one with --template" in done.stderr
    done = llmstream("bench", "-m", str(other), *run, "--template", "vicuna")
    assert done.returncode == 0, done.stderr


def test_json_of_the_real_model() -> None:
    done = llmstream("bench", *LOCAL, "--streams", "1,2", "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    report = json.loads(done.stdout)
    assert report["program"] == "llmstream"
    assert report["engine"] == "in-process"
    assert report["url"] is None
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
    assert report["complete"] is True
    assert report["tokens_counted_by"] == "usage"
    results = report["results"]
    assert [(result["prefix"], result["streams"]) for result in results] == [
        ("distinct", 1),
        ("shared", 1),
        ("distinct", 2),
        ("shared", 2),
    ]
    for result in results:
        figures = result["median"]
        assert result["errors"] == 0
        assert 0 < figures["generated_tokens"] <= 4 * result["streams"]
        assert figures["prompt_tokens"] > 32 * result["streams"]  # the template adds some
        unknown = {name for name, value in figures.items() if value is None}
        assert unknown <= {"decode_tokens_per_second"}  # where one ends before another begins


def test_the_same_prompts_cost_the_same_tokens() -> None:
    tokens = []
    for _ in range(2):
        done = llmstream("bench", *LOCAL, "--streams", "2", "--prefix", "shared", "--json")
        figures = json.loads(done.stdout)["results"][0]["median"]
        tokens.append((figures["prompt_tokens"], figures["generated_tokens"]))
    assert tokens[0] == tokens[1]


def test_a_pipe_gets_aligned_lines() -> None:
    done = llmstream("bench", *LOCAL, "--streams", "1")
    assert (done.returncode, done.stderr) == (0, b"")
    comment, *_ = lines = done.stdout.decode().splitlines()
    assert comment.startswith("# llmstream ")
    assert comment.endswith(": SmolLM2-135M-Instruct.Q4_1 with --threads 1")
    headings, *results = rows(done.stdout.decode())
    assert headings == COLUMNS
    assert [result[:2] for result in results] == [["distinct", "1"], ["shared", "1"]]
    assert {result[-1] for result in results} == {"0"}
    assert len({len(line) for line in lines if not line.startswith("#")}) == 1


def test_a_terminal_gets_a_table_and_progress() -> None:
    child = pexpect.spawn(
        sys.executable,
        [*BENCH[1:], *LOCAL, "--streams", "1"],
        timeout=TIMEOUT,
        encoding="utf-8",
        dimensions=(24, 40),
    )
    output = child.read()
    child.close()
    assert child.exitstatus == 0
    progress, _, report = output.rpartition("\r\x1b[K")
    assert "streams 1: warming up" in progress
    assert "streams 1: shared, 1 of 1" in progress
    assert "distinct prompts" in report
    assert "shared prompts" in report
    assert "…" not in report  # no figure is cut short where the terminal is narrow
    lines = [line for line in report.splitlines() if line.strip().startswith("1 ")]
    assert [len(line.split()) for line in lines] == [12, 12]


def test_a_prompt_longer_than_the_context_is_one_line() -> None:
    done = llmstream("bench", *LOCAL, "--ctx-size", "40")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the context holds 40" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen(
        [*BENCH, *LOCAL, "--streams", "1", "--prefix", "shared"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=TIMEOUT) == 0
        assert process.stderr.read() == b""


# ---- a server -------------------------------------------------------------------------------


async def test_json_of_a_server() -> None:
    async with serving(answer_events(*story())) as server:
        code, output, complaints = await bench(
            "--url", server.url, "--streams", "1,3", "--json", *TINY, "--repeat", "2", "--seed", "5"
        )
    assert (code, complaints) == (0, "")
    report = json.loads(output)
    assert (report["engine"], report["url"]) == ("openai", server.url)
    assert report["model"] == "tiny"
    assert report["parameters"]["seed"] == 5
    assert report["parameters"]["threads"] is None
    for result in report["results"]:
        assert len(result["runs"]) == 2
        assert result["median"]["prompt_tokens"] == 40 * result["streams"]
        assert result["median"]["generated_tokens"] == 10 * result["streams"]
        assert result["median"]["cached_tokens"] == 16 * result["streams"]
    # A warm-up and two runs of both kinds, for each number of streams; no prompt comes twice.
    prompts = [request.body["messages"][0]["content"] for request in server.requests]
    assert len(prompts) == 5 * 1 + 5 * 3
    assert len(set(prompts)) == len(prompts)
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}


async def test_a_server_meets_new_prompts_each_time() -> None:
    async with serving(answer_events(*story())) as server:
        for _ in range(2):
            await bench("--url", server.url, "--streams", "1", "--prefix", "distinct", *TINY)
    prompts = [request.body["messages"][0]["content"] for request in server.requests]
    assert len(set(prompts)) == len(prompts) == 4


async def test_a_server_without_usage_is_said_to_be_so() -> None:
    async with serving(answer_events(*story(usage=None))) as server:
        arguments = ("--url", server.url, "--streams", "1", "--prefix", "shared", *TINY)
        _, lines, _ = await bench(*arguments)
        _, output, _ = await bench(*arguments, "--json")
    assert "# the server reports no usage: pieces of text are counted as tokens" in lines
    _, result = rows(lines)
    assert (result[2], result[-2]) == ("-", "-")  # prompt tokens/s, cached tokens
    report = json.loads(output)
    assert report["tokens_counted_by"] == "pieces"
    assert report["results"][0]["median"]["generated_tokens"] == 5
    assert report["results"][0]["median"]["prompt_tokens"] is None


async def test_failed_requests_are_counted_and_told() -> None:
    def reply(number: int) -> Reply:
        if number == 3:  # the first two are the warm-up
            return answer_json({"error": {"message": "on\x1b[31m fire"}}, "500 Oops")
        return answer_events(*story())

    async with serving(reply) as server:
        arguments = ("--url", server.url, "--streams", "2", *TINY)
        code, output, complaints = await bench(*arguments)
    assert code == 1
    assert (
        complaints
        == "llmstream: 1 requests failed, first: the server failed (HTTP 500: on[31m fire)\n"
    )
    assert [row[-1] for row in rows(output)] == ["errors", "1", "0"]


async def test_a_server_that_only_fails_is_one_line() -> None:
    refusal = answer_json({"error": {"message": f"the key {KEY} is wrong"}}, "401 Unauthorized")
    async with serving(refusal) as server:
        code, output, complaints = await bench("--url", server.url, "--streams", "2", *TINY)
    assert (code, output) == (1, "")
    assert complaints == (
        "llmstream: the server does not take this API key (HTTP 401: the key *** is wrong)\n"
    )
    assert len(server.requests) == 2  # it was not tried again


async def test_what_was_measured_before_all_fails_is_printed() -> None:
    def reply(number: int) -> Reply:
        return answer_events(*story()) if number < 2 else answer_events()

    async with serving(reply) as server:
        arguments = ("--url", server.url, "--streams", "1,2", "--prefix", "shared", *TINY)
        code, output, complaints = await bench(*arguments)
    assert (code, complaints) == (1, "llmstream: the stream ended without [DONE]\n")
    assert "# not complete" in output
    assert [row[:2] for row in rows(output)] == [["prefix", "streams"], ["shared", "1"]]


@pytest.mark.parametrize("answered", [0, 2])
async def test_ctrl_c_prints_what_was_measured(answered: int) -> None:
    waiting = asyncio.Event()

    def reply(number: int) -> Reply:
        if number < answered:
            return answer_events(*story())
        waiting.set()
        return answer_events(*story()[:3], hang=True)

    async with serving(reply) as server:
        code, output, complaints = await bench(
            "--url", server.url, "--streams", "1", "--json", *TINY, interrupt=waiting
        )
    assert (code, complaints) == (130, "")
    report = json.loads(output)
    assert report["complete"] is False
    results: list[dict[str, Any]] = report["results"]
    assert [result["prefix"] for result in results] == ["distinct"] * (answered // 2)


@pytest.mark.parametrize("answered", [0, 2])
async def test_the_end_of_the_time_prints_what_was_measured(answered: int) -> None:
    def reply(number: int) -> Reply:
        return answer_events(*story()) if number < answered else answer_events(hang=True)

    async with serving(reply) as server:
        code, output, complaints = await bench("--url", server.url, "--seconds", "2", *TINY)
    if answered:
        assert (code, complaints) == (0, "")
        assert "# not complete: it has 2 s; --seconds 0 takes as long as it needs" in output
        assert [row[:2] for row in rows(output)] == [["prefix", "streams"], ["distinct", "1"]]
    else:
        assert (code, output) == (1, "")
        assert complaints.startswith("llmstream: nothing could be measured in 2 s; give --seconds")


@pytest.mark.parametrize(
    ("options", "seconds", "repeat", "streams"),
    [
        ((), 50.0, 1, 6),
        (("--seconds", "9"), 9.0, 1, 6),
        (("--seconds", "0"), None, 1, 6),
        (("--repeat", "2"), None, 2, 6),
        (("--streams", "1"), None, 3, 1),
        (("--streams", "1", "--seconds", "9"), 9.0, 3, 1),
    ],
)
async def test_without_a_word_on_the_workload_there_is_a_minute(
    options: tuple[str, ...], seconds: float | None, repeat: int, streams: int
) -> None:
    async with serving(answer_events(*story())) as server:
        code, output, _ = await bench("--url", server.url, "--json", *options)
    parameters = json.loads(output)["parameters"]
    assert code == 0
    assert (parameters["seconds"], parameters["repeat"]) == (seconds, repeat)
    assert len(parameters["streams"]) == streams


def test_the_key_is_no_default_that_help_shows() -> None:
    done = subprocess.run(
        [*BENCH, "--help"],
        env={**os.environ, "LLMSTREAM_API_KEY": KEY},
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert KEY.encode() not in done.stdout
    assert b"LLMSTREAM_API_KEY" in done.stdout


# ---- bad input: one line, and nothing else --------------------------------------------------

URL = ("--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("--streams", ""), 2, "--streams must be numbers, like 1,2,4"),
        (("--streams", "1;2"), 2, "--streams must be numbers, like 1,2,4"),
        (("--streams", "0"), 2, "--streams must be between 1 and 256"),
        (("--streams", "1,257"), 2, "--streams must be between 1 and 256"),
        (("--prefix", "none"), 2, "'none' is not one of"),
        (("--prompt-tokens", "31"), 2, "--prompt-tokens must be between 32 and"),
        (("--max-tokens", "0"), 2, "--max-tokens must be between 1 and"),
        (("--repeat", "0"), 2, "--repeat must be between 1 and 1000"),
        (("--seed", "-1"), 2, "--seed must be between 0 and"),
        (("--threads", "0"), 2, "--threads must be between"),
        (("--ctx-size", "0"), 2, "--ctx-size must be between"),
        (("--prompt-tokens", "9000"), 2, "the model was trained with 8192"),
        (("-f", "gpt"), 1, "known: smollm2"),
        (("-f", "smollm2", "-m", "x.gguf"), 2, "give one of them"),
        (("-f", "smollm2", *URL), 2, "name none with it"),
        (("--tokenizer", "t.json", *URL), 2, "name none with it"),
        (("--template", "chatml", *URL), 2, "not with --url"),
        (("-m", "no/such.gguf"), 1, "there is no file no/such.gguf"),
        (("--url-model", "tiny"), 2, "--url-model needs --url"),
        (("--api-key", "x"), 2, "--api-key is the key of another server"),
        (("--seconds", "-1"), 2, "--seconds must be between 0 and 1000000"),
        (("--threads", "1", *URL), 2, "not with --url"),
        (("--ctx-size", "100", *URL), 2, "not with --url"),
        (("--url", "ftp://127.0.0.1"), 2, "URL must be like http://127.0.0.1:8080"),
        (("--api-key", "a b", *URL), 2, "the API key has characters that no key can have"),
        (URL, 1, "cannot connect to http://127.0.0.1:1"),
        (("--url-model", "tiny", *URL), 1, "cannot connect to http://127.0.0.1:1"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], code: int, complaint: str) -> None:
    done = llmstream("bench", *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("llmstream: ")
    assert complaint in lines[0]


@pytest.mark.parametrize(
    ("text", "streams"),
    [("1", (1,)), ("1,2,4", (1, 2, 4)), (" 4, 2 ", (4, 2)), ("2,2,1,2", (2, 1)), ("256", (256,))],
)
def test_streams(text: str, streams: tuple[int, ...]) -> None:
    assert parse_streams(text) == streams


@pytest.mark.parametrize("text", ["1,", "one", "1.5", "-1", "9" * 5000])
def test_bad_streams(text: str) -> None:
    with pytest.raises(InvalidValueError, match="--streams must be"):
        parse_streams(text)


# ---- start-up counts ------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    assert not modules_loaded_by("bench", "--help") & {*HEAVY, "asyncio", "httpx2", "jinja2"}


def test_a_pipe_loads_no_table_and_the_engine_no_http_client() -> None:
    loaded = modules_loaded_by("bench", *LOCAL, "--streams", "1", "--prefix", "shared")
    assert "llama_cpp.llama_cpp" in loaded
    assert not loaded & {"httpx2", "rich.table"}
