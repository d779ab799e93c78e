"""Messages between the server and the engine's process: exact, checked, and bounded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstream_cli import errors
from llmstream_cli.api import (
    Chunk,
    DrawnLogprob,
    EngineConfig,
    EngineMetrics,
    FinishReason,
    GenerationRequest,
    ModelInfo,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from llmstream_cli.core.llama import DecodeAbortedError
from llmstream_cli.engines import ipc
from llmstream_cli.engines.ipc import (
    Cancel,
    Command,
    Ended,
    FrameReader,
    Load,
    Loaded,
    Ping,
    Pong,
    Report,
    Results,
    Submit,
    WireError,
    pack,
)
from llmstream_cli.errors import (
    ContextLengthError,
    InvalidValueError,
    LLMStreamError,
)
from llmstream_cli.prompts.formats import ChatFormat
from llmstream_cli.prompts.messages import Message

# Any text: lone surrogates too, as a command line or a JSON body may bring them.
texts = st.text(st.characters(exclude_categories=()))
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e9)
tokens = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)

messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1
).map(tuple)
free_sampling = st.builds(
    SamplingParams,
    temperature=st.floats(0, 10) | st.integers(0, 10),
    top_k=st.integers(0, 1000),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repeat_penalty=st.floats(0.1, 10),
    repeat_last_n=st.integers(-1, 1000),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    seed=st.none() | st.integers(0, 2**32 - 2),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop=st.lists(st.text(min_size=1, max_size=20), max_size=16).map(tuple),
    logit_bias=st.dictionaries(st.integers(0, 50_000), st.floats(-100, 100), max_size=9).map(
        lambda biases: tuple(biases.items())
    ),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
)
bound_sampling = st.builds(SamplingParams, grammar=texts) | st.builds(
    SamplingParams, json_schema=texts
)
requests = st.builds(
    GenerationRequest, messages=messages, sampling=free_sampling | bound_sampling
) | st.builds(GenerationRequest, prompt=texts | tokens, sampling=free_sampling)
formats = st.builds(
    ChatFormat, name=texts, template=texts, stop=st.lists(texts, max_size=3).map(tuple)
)
configs = st.builds(
    EngineConfig,
    model_path=texts,
    ctx_size=st.none() | st.integers(16, 2**24),
    threads=st.none() | st.integers(1, 512),
    max_seqs=st.integers(1, 256),
    chat_format=st.none() | formats,
    default_chat_format=st.none() | formats,
)

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

commands = st.one_of(
    st.builds(Load, configs, st.booleans()),
    st.builds(Submit, counts, requests),
    st.builds(Cancel, counts),
    st.just(Ping()),
)
reports = st.one_of(
    st.builds(Loaded, infos),
    st.builds(Results, st.lists(st.tuples(counts, chunks), max_size=4).map(tuple), metrics),
    st.just(Pong()),
)


@given(commands)
def test_every_command_arrives_as_it_was_sent(command: Command) -> None:
    assert list(FrameReader(Command).feed(pack(command))) == [command]


@given(reports)
def test_every_report_arrives_as_it_was_sent(report: Report) -> None:
    assert list(FrameReader(Report).feed(pack(report))) == [report]


@given(st.lists(reports, max_size=4), st.data())
def test_messages_arrive_however_the_stream_is_cut(sent: list[Report], data: st.DataObject) -> None:
    stream = b"".join(map(pack, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, received = FrameReader(Report), list[Any]()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == sent


def test_two_lone_surrogates_in_a_row_stay_two() -> None:
    report = Results(((1, Chunk("\ud83d\ude00")),), EngineMetrics())
    (received,) = FrameReader(Report).feed(pack(report))
    assert received.results[0][1].text == "\ud83d\ude00"
    assert len(received.results[0][1].text) == 2


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.5])
def test_whole_and_broken_numbers_keep_their_kind(value: float) -> None:
    sampling = SamplingParams(temperature=value)
    (received,) = FrameReader(Command).feed(
        pack(Submit(0, GenerationRequest(prompt="a", sampling=sampling)))
    )
    assert type(received.request.sampling.temperature) is type(value)


# ---- errors ---------------------------------------------------------------------------------

TREE = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, LLMStreamError)
]


def arrived(error: LLMStreamError) -> LLMStreamError:
    (received,) = FrameReader(Report).feed(pack(Ended(error)))
    result = received.error
    assert isinstance(result, LLMStreamError)
    return result


@pytest.mark.parametrize("cls", TREE)
def test_every_error_arrives_as_its_own_class(cls: type[LLMStreamError]) -> None:
    more = {ContextLengthError: (12, 8), InvalidValueError: ("a reason", "top_k")}
    error = cls(*more.get(cls, ("a reason",)))
    result = arrived(error)
    assert type(result) is cls
    assert str(result) == str(error)
    assert vars(result) == vars(error)
    assert result.status == error.status


@given(texts)
def test_any_message_of_an_error_arrives(message: str) -> None:
    assert str(arrived(InvalidValueError(message))) == message


def test_attributes_of_an_error_arrive() -> None:
    result = arrived(ContextLengthError(9000, 8192))
    assert isinstance(result, ContextLengthError)
    assert (result.prompt_tokens, result.ctx_size) == (9000, 8192)


def test_an_error_from_elsewhere_arrives_as_its_closest_ancestor() -> None:
    assert type(arrived(DecodeAbortedError("stopped"))) is errors.EngineError


def test_what_is_no_data_in_an_error_stays_behind() -> None:
    error = InvalidValueError("a reason")
    error.__dict__.update(_private=1, handle=object(), line=3)
    assert vars(arrived(error)) == {"field": None, "line": 3}


# ---- what breaks the rules ------------------------------------------------------------------


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def refused(stream: bytes) -> None:
    with pytest.raises(WireError):
        list(FrameReader(Report).feed(stream))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"null",
        b"NaN",
        b"1" * 5000,
        b"[" * 100_000,
        b'["Pong"',
        b'["Pong",1]',
        b'["Ping"]',  # a command is no report
        b'["Nothing"]',
        b'["os.system","true"]',
        b'["Ended","no error"]',
        b'["Ended",["BaseException","x",{}]]',
        b'["Ended",["LLMStreamError","x",{"__class__":"x"}]]',
        b'["Ended",["LLMStreamError","x",{"deep":[1]}]]',
        b'["Ended",["LLMStreamError",1,{}]]',
    ],
)
def test_a_frame_that_makes_no_sense_is_refused(body: bytes) -> None:
    refused(frame(body))


def test_a_field_of_the_wrong_type_is_refused() -> None:
    info = ModelInfo("m", "d", 1, 1.0, {})
    good = json.loads(pack(Loaded(info))[4:])
    values = good[1]
    for index in range(len(values)):
        # What no field of `ModelInfo` takes; the last but one, no field but a truth value.
        for wrong in ([], {"a": 1}, 7 if values[index] is False else True, ["Chunk"]):
            spoilt = ["Loaded", [*values[:index], wrong, *values[index + 1 :]]]
            refused(frame(json.dumps(spoilt).encode()))
    refused(frame(json.dumps(["Loaded", values[:-1]]).encode()))
    refused(frame(json.dumps(["Loaded", [*values, 1]]).encode()))


def test_a_value_out_of_bounds_is_refused() -> None:
    request = GenerationRequest(prompt="a")
    spoilt = pack(Submit(0, request))[4:].replace(b'["SamplingParams",0.2', b'["SamplingParams",11')
    with pytest.raises(WireError, match="temperature must be between"):
        list(FrameReader(Command).feed(frame(spoilt)))


def test_a_role_that_no_message_has_is_refused() -> None:
    request = GenerationRequest((Message("user", "a"),))
    spoilt = pack(Submit(0, request))[4:].replace(b'"user"', b'"tool"')
    with pytest.raises(WireError, match=r"not one of .* 'tool'"):
        list(FrameReader(Command).feed(frame(spoilt)))


@given(st.binary(max_size=300))
def test_any_bytes_make_messages_or_an_error_and_nothing_else(stream: bytes) -> None:
    try:
        received = list(FrameReader(Report).feed(stream))
    except WireError:
        return
    assert all(isinstance(report, Report) for report in received)


@given(st.recursive(st.none() | st.booleans() | st.floats() | texts, st.lists, max_leaves=10))
def test_any_json_makes_a_message_or_an_error(value: Any) -> None:
    for body in (["Ended", value], ["Results", value, value], ["Loaded", value]):
        refused(frame(json.dumps(body).encode()))


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    refused((ipc.MAX_REPORT_BYTES + 1).to_bytes(4, "big"))
    assert not list(FrameReader(Report).feed(ipc.MAX_REPORT_BYTES.to_bytes(4, "big")))
    assert not list(FrameReader(Command).feed((ipc.MAX_REPORT_BYTES + 1).to_bytes(4, "big")))


def test_a_request_that_is_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "MAX_COMMAND_BYTES", 1000)
    pack(Submit(0, GenerationRequest(prompt="x" * 500)))
    with pytest.raises(InvalidValueError, match="1000 are allowed"):
        pack(Submit(0, GenerationRequest(prompt="x" * 1000)))
