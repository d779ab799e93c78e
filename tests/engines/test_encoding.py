"""Requests encoded in processes that the kernel limits, on real processes."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import pytest

from llmstream_cli.api import EngineConfig, GenerationRequest, SamplingParams
from llmstream_cli.core.grammar.constraint import GrammarCompiler
from llmstream_cli.core.llama import Model
from llmstream_cli.core.model import EncodedRequest, LoadedModel
from llmstream_cli.engines import encoding, ipc
from llmstream_cli.engines.encoding import EncodingPool, Lane, Outcome, RemoteConstraint
from llmstream_cli.errors import (
    EngineError,
    InvalidValueError,
    LLMStreamError,
    PromptError,
    QueueFullError,
)
from llmstream_cli.prompts.messages import Message
from tests.gguf_files import write_family, write_llama

pytestmark = pytest.mark.slow

# What each request does is said by its message.
TEMPLATE = """\
{%- set what = messages[0]['content'] -%}
{%- if what == 'burn' -%}
    {%- for a in range(300) -%}{%- for b in range(300) -%}{%- set s = what | upper -%}
    {%- for c in what * 9999 -%}{%- endfor -%}
    {%- endfor -%}{%- endfor -%}
{%- elif what == 'keep the GIL' -%}
    {%- set n = namespace(text='x') -%}
    {%- for _ in range(23) -%}{%- set n.text = n.text ~ n.text -%}{%- endfor -%}
    {%- if n.text ~ 'a' in [n.text ~ 'b'] * 90000 -%}{%- endif -%}
{%- elif what == 'fill the memory' -%}
    {%- set n = namespace(value='x') -%}
    {%- for _ in range(40) -%}{%- set n.value = n.value ~ n.value -%}{%- endfor -%}
{%- elif what == 'refuse' -%}
    {{- raise_exception('no') -}}
{%- endif -%}
{{- what -}}
"""
EXPENSIVE_SCHEMA = json.dumps(
    {
        "type": "object",
        "patternProperties": {f"^a{n}b*$": {"type": "integer"} for n in range(600)},
    }
)


def message(text: str, **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        messages=(Message("user", text),),
        sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
    )


class Bench:
    """A pool on a tiny model."""

    ctx_size = 256

    def __init__(self, path: Path, *, quick: float = 60.0, slow: float = 60.0) -> None:
        config = EngineConfig(model_path=str(path), ctx_size=self.ctx_size)
        self.loaded = LoadedModel(config)
        self.outcomes: dict[int, EncodedRequest | LLMStreamError] = {}
        self.pool = EncodingPool(
            config,
            self._deliver,
            quick=Lane(places=2, seconds=quick),
            slow=Lane(places=1, seconds=slow, low_priority=True),
        )

    def submit(self, request_id: int, request: GenerationRequest) -> None:
        self.pool.submit(request_id, request, replace(self.loaded.info, ctx_size=self.ctx_size))

    def _deliver(self, request_id: int, _: ipc.Request, outcome: Outcome) -> None:
        assert isinstance(outcome, EncodedRequest | LLMStreamError)
        assert request_id not in self.outcomes
        self.outcomes[request_id] = outcome

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline
            self.pool.receive(wait(self.pool.connections, 0.02))

    def outcome(self, request: GenerationRequest) -> EncodedRequest | LLMStreamError:
        request_id = 1000 + len(self.outcomes)
        self.submit(request_id, request)
        self.until(lambda: request_id in self.outcomes)
        return self.outcomes[request_id]

    def children(self) -> list[int]:
        """Return the processes that were forked and are there yet."""
        task = Path(f"/proc/{self.pool._process.pid}/task")
        return [
            int(child)
            for thread in task.iterdir()
            for child in (thread / "children").read_text().split()
        ]

    def until_no_process(self) -> None:
        self.until(lambda: not self.children())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def start(**settings: float) -> Bench:
        benches.append(Bench(write_llama(tmp_path / "m.gguf", TEMPLATE), **settings))
        return benches[-1]

    yield start
    for bench in benches:
        bench.pool.close()


def test_outcomes_are_those_of_the_model_in_this_process(start: Callable[..., Bench]) -> None:
    bench = start()
    for request in (message("the of"), GenerationRequest(prompt="the of"), message("<s>[INST]")):
        assert bench.outcome(request) == bench.loaded.encode(request)
    for refused in (message("refuse"), message("x" * 5000), GenerationRequest(prompt=(10**6,))):
        with pytest.raises(LLMStreamError) as expected:
            bench.loaded.encode(refused)
        outcome = bench.outcome(refused)
        assert type(outcome) is type(expected.value)
        assert str(outcome) == str(expected.value)
        assert vars(outcome) == vars(expected.value)
    bench.until_no_process()


def test_a_grammar_is_followed_as_in_this_process(start: Callable[..., Bench]) -> None:
    bench = start()
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": ["x", "yz"]}}})
    number = {"json_schema": '{"type": "number"}'}  # two grammars hold, one of them for its length
    (seven,) = bench.loaded.model.tokenize("7", special=False)[-1:]
    for sampling in ({"json_schema": schema}, {"grammar": 'root ::= "ab" [0-9]* "c"'}, number):
        outcome = bench.outcome(message("the of", **sampling))
        assert isinstance(outcome, EncodedRequest)
        remote = outcome.constraint
        assert isinstance(remote, RemoteConstraint)
        local = GrammarCompiler(bench.loaded.model).compile_grammar(
            SamplingParams(**sampling)  # type: ignore[arg-type]
        )
        for _ in range(30):
            assert remote.is_ready(300)
            assert (remote.allowed() == local.allowed()).all()
            token = seven if local.allowed()[seven] else int(np.flatnonzero(local.allowed())[0])
            if bench.loaded.model.is_end_of_generation(token):
                break
            local.accept(token)
            remote.accept(token)
    assert bench.children()
    del outcome, remote
    bench.outcomes.clear()  # that holds them as well
    bench.until_no_process()


@pytest.mark.parametrize("what", ["burn", "keep the GIL", "fill the memory"])
def test_a_template_harms_its_own_request_alone(start: Callable[..., Bench], what: str) -> None:
    bench = start(quick=0.3, slow=2.0)
    bench.submit(0, message(what))
    assert isinstance(bench.outcome(message("the of")), EncodedRequest)
    bench.until(lambda: 0 in bench.outcomes)
    assert isinstance(bench.outcomes[0], PromptError)
    bench.until_no_process()


def test_an_expensive_schema_is_named(start: Callable[..., Bench]) -> None:
    outcome = start(quick=0.2).outcome(message("the of", json_schema=EXPENSIVE_SCHEMA))
    assert isinstance(outcome, InvalidValueError)
    assert str(outcome).startswith("JSON schema: it needs more than 1 second")


def test_cheap_requests_do_not_wait_for_the_few_expensive_ones(
    start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_WALL_SECONDS", 600.0)  # the machine may be busy
    bench = start(quick=0.2)
    os.kill(bench.pool._process.pid, signal.SIGKILL)  # it is started again
    bench.pool._process.wait(300)
    for number in range(12):
        bench.submit(number, message("burn"))
    assert isinstance(bench.outcome(message("the of")), EncodedRequest)
    bench.until(lambda: len(bench.outcomes) == 4)  # one is encoded, eight wait
    refused = [number for number in bench.outcomes if number < 12]
    assert [type(bench.outcomes[number]) for number in refused] == [QueueFullError] * 3
    bench.until(lambda: len(bench.children()) == 1)
    assert isinstance(bench.outcome(message("the of")), EncodedRequest)
    for number in range(13):
        bench.pool.cancel(number)
    bench.until_no_process()
    assert [number for number in bench.outcomes if number < 12] == refused


def test_a_cancelled_one_ends_even_where_it_keeps_the_gil(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.submit(0, message("keep the GIL"))
    bench.until(lambda: bool(bench.children()))
    time.sleep(0.3)  # to be in the middle of it
    bench.pool.cancel(0)
    bench.until_no_process()
    assert isinstance(bench.outcome(message("the of")), EncodedRequest)
    assert 0 not in bench.outcomes


def test_a_grammar_whose_process_was_killed_ends_its_answer(start: Callable[..., Bench]) -> None:
    bench = start()
    outcome = bench.outcome(message("the of", grammar='root ::= "a"*'))
    assert isinstance(outcome, EncodedRequest)
    assert outcome.constraint is not None
    outcome.constraint.allowed()
    for process in bench.children():
        os.kill(process, signal.SIGKILL)
    bench.until_no_process()
    outcome.constraint.accept(5)
    with pytest.raises(EngineError, match="the grammar needs more than"):
        outcome.constraint.allowed()


# ---- texts that tokenizers are slow with, or overflow their stack ---------------------------

SENTENCEPIECE = "sentencepiece"
VOCABULARIES = (SENTENCEPIECE, "falcon", "deepseek-llm", "tekken")
REPEATED = ("\n", "7", "\N{COMBINING ACUTE ACCENT}", "\u6f22", "a")


def write_vocabulary(path: Path, name: str) -> Path:
    if name == SENTENCEPIECE:
        return write_llama(path)
    ends = {"bos": "<|endoftext|>", "eos": "<|im_end|>"}
    return write_family(path, "gpt2", **ends, add_bos=False, pre=name)


@pytest.fixture(scope="module", params=VOCABULARIES)
def unbounded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A pool whose context is large enough for every prompt, so that all of it is tokenized."""
    path = write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "m.gguf", request.param)
    bench = Bench(path, quick=0.2, slow=1.0)
    bench.ctx_size = 2**31
    yield bench
    bench.pool.close()


@pytest.mark.parametrize("repeated", REPEATED, ids=ascii)
def test_every_encoding_ends(unbounded: Bench, repeated: str) -> None:
    outcome = unbounded.outcome(GenerationRequest(prompt=f"x{repeated * 100_000}x"))
    if isinstance(outcome, EncodedRequest):
        pieces = map(unbounded.loaded.model.piece, outcome.prompt)
        assert b"".join(pieces).decode().strip() == f"x{repeated * 100_000}x"
    else:
        assert isinstance(outcome, PromptError)
        assert str(outcome).startswith("the messages made no prompt within 1 seconds or 256 MiB;")
    short = unbounded.outcome(GenerationRequest(prompt="the of"))
    assert short == unbounded.loaded.encode(GenerationRequest(prompt="the of"))


def test_a_model_without_weights_knows_what_prompts_need(tmp_path: Path) -> None:
    path = str(write_llama(tmp_path / "m.gguf", TEMPLATE))
    whole, vocabulary = Model(path), Model(path, vocab_only=True)
    assert vocabulary.vocab_size == whole.vocab_size
    assert vocabulary.control_tokens() == whole.control_tokens()
    assert vocabulary.chat_template == whole.chat_template
    assert replace(LoadedModel(EngineConfig(model_path=path), vocab_only=True).info).thinks is False
