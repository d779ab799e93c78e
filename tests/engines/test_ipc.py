"""Messages between the server and the engine's process: exact, checked, and bounded."""

import contextlib
import json
import socket
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli import errors
from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    EngineMetrics,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    Progress,
    TokenLogprob,
    Usage,
)
from llmstream_cli.core.llama import DecodeAbortedError
from llmstream_cli.engines import ipc
from llmstream_cli.engines.ipc import (
    Counted,
    Ended,
    Failure,
    Loaded,
    Pong,
    Results,
    Submit,
    WireError,
    dump_report,
    pack_command,
    parse_report,
)
from llmstream_cli.errors import ContextLengthError, InvalidValueError, LLMStreamError

texts = st.text()
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e9)
tokens = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
token_logprobs = st.builds(TokenLogprob, counts, st.binary(max_size=90), st.floats(max_value=0))
chunks = st.builds(
    Chunk,
    text=texts,
    token_ids=tokens,
    finish_reason=st.none() | st.sampled_from(FinishReason),
    usage=st.none() | st.builds(Usage, counts, counts, seconds, seconds, counts),
    logprobs=st.lists(
        st.builds(DrawnLogprob, token_logprobs, st.lists(token_logprobs, max_size=3).map(tuple)),
        max_size=3,
    ).map(tuple),
    reasoning=texts,
    progress=st.none() | st.builds(Progress, st.none() | counts, counts, counts),
    stop_string=texts,
)
infos = st.builds(
    ModelInfo,
    name=texts,
    description=texts,
    ctx_size=counts,
    load_seconds=seconds,
    cpu_features=st.dictionaries(st.text(max_size=8), st.booleans(), max_size=4),
    ctx_train=counts,
    vocab_size=counts,
    num_parameters=counts,
    size_bytes=counts,
    metadata=st.dictionaries(texts, texts, max_size=4),
    chat_template=st.none() | texts,
    chat_format=st.none() | texts,
)
metrics = st.builds(EngineMetrics, running=counts, step_seconds=seconds, rss_bytes=counts)

failures = st.sampled_from(sorted(ipc._ERRORS)).flatmap(
    lambda name: st.builds(
        Failure, st.just(name), texts, st.dictionaries(st.sampled_from(["field", "x"]), texts)
    )
)
reports = st.one_of(
    st.builds(Loaded, infos),
    st.builds(
        Results, st.lists(st.tuples(counts, chunks | failures), max_size=4).map(tuple), metrics
    ),
    st.builds(Counted, counts, counts),
    st.builds(Ended, failures),
    st.just(Pong()),
)


@given(reports)
def test_every_report_arrives_as_it_was_sent(report: Any) -> None:
    assert parse_report(dump_report(report)) == report


def test_a_command_is_framed_and_keeps_any_text() -> None:
    command = Submit(7, GenerationRequest(prompt="lone \ud800\udc00 surrogates"))
    ours, theirs = socket.socketpair()
    with ours, Connection(theirs.detach()) as connection:
        ours.sendall(pack_command(command))
        assert connection.recv() == command


def test_a_request_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MAX_COMMAND_BYTES", 1000)
    with pytest.raises(InvalidValueError, match="and 1000 are allowed"):
        pack_command(Submit(1, GenerationRequest(prompt="x" * 1000)))


# ---- errors ---------------------------------------------------------------------------------


def crossed(error: LLMStreamError) -> LLMStreamError:
    report = parse_report(dump_report(Ended(Failure.of(error))))
    assert isinstance(report, Ended)
    return report.failure.error()


@pytest.mark.parametrize("name", sorted(ipc._ERRORS))
def test_every_error_arrives_as_its_own_class(name: str) -> None:
    cls = getattr(errors, name)
    arrived = crossed(cls.__new__(cls, "why"))
    assert (type(arrived), str(arrived)) == (cls, "why")


def test_attributes_of_an_error_arrive_but_for_what_is_no_data() -> None:
    error = ContextLengthError(100, 64)
    error.__dict__["other"] = object()
    arrived = crossed(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == {"prompt_tokens": 100, "ctx_size": 64}


def test_an_error_from_elsewhere_arrives_as_its_closest_ancestor() -> None:
    assert type(crossed(DecodeAbortedError("why"))) is errors.EngineError


def test_a_message_with_half_a_character_arrives() -> None:
    assert str(crossed(errors.ModelError("no \udcff.gguf"))) == "no ?.gguf"


@pytest.mark.parametrize(
    "failure",
    [
        Failure("SystemExit", "x", {}),
        Failure("", "x", {}),
        Failure("EngineError", "x", {"__class__": "x"}),
        Failure("EngineError", "x", {"a b": 1}),
    ],
)
def test_what_is_no_error_is_refused(failure: Failure) -> None:
    with pytest.raises(WireError):
        failure.error()


# ---- what breaks the rules ------------------------------------------------------------------

RESULTS = Results(((1, Chunk("a", (1,))),), EngineMetrics())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"running":0', '"running":true'),
        ('"running":0', '"running":"0"'),
        ('"running":0', '"running":0.5'),
        ('"running":0', '"running":0,"more":1'),
        ('"token_ids":[1]', '"token_ids":["1"]'),
        ('"token_ids":[1]', '"token_ids":1'),
        ('"finish_reason":null', '"finish_reason":"because"'),
        ('"text":"a"', '"text":null'),
        ('"text":"a"', '"text":"\\ud800"'),
        ('"type":"results"', '"type":"submit"'),
        ('"type":"results"', '"type":7'),
        ("[[1,", "[[1,2,"),
        ("{", "["),
    ],
)
def test_a_report_that_breaks_a_rule_is_refused(old: str, new: str) -> None:
    body = dump_report(RESULTS).decode()
    assert old in body
    with pytest.raises(WireError, match="a frame that makes no sense"):
        parse_report(body.replace(old, new).encode())


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("results"),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["type", "results", "metrics", "info"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_make_a_report_or_a_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        parse_report(body)
