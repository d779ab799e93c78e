"""The engine in a process of its own, on real processes: what it answers, and how it dies."""

import asyncio
import errno
import os
import signal
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from llmstream_cli.api import (
    Engine,
    EngineConfig,
    EngineState,
    FinishReason,
    GenerationRequest,
)
from llmstream_cli.engines import supervised as supervised_module
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineDiedError,
    EngineError,
    EngineNotReadyError,
    InvalidValueError,
    ModelError,
    PromptError,
)
from llmstream_cli.prompts.formats import find_format
from tests.engines.processes import (
    ENDLESS,
    ONE_THREAD,
    SHORT,
    Reader,
    pid,
    running,
    state,
    until,
)
from tests.engines.test_in_process import (
    PROMPTS,
    collect,
    question,
    text,
    token_ids,
)
from tests.engines.test_in_process import running as running_in_process
from tests.gguf_files import write_llama

pytestmark = pytest.mark.slow


@pytest.fixture
async def engine(model_path: Path) -> AsyncGenerator[SupervisedEngine]:
    async with running(model_path, max_seqs=4) as engine:
        await engine.ready()
        yield engine


# ---- it is an engine like the other ---------------------------------------------------------


async def test_greedy_answers_are_those_of_the_engine_in_this_process(
    engine: SupervisedEngine, model_path: Path
) -> None:
    requests = [question(prompt) for prompt in PROMPTS]
    async with running_in_process(model_path, **ONE_THREAD, max_seqs=4) as other:
        expected = [await collect(other.generate(request)) for request in requests]
        info = await other.ready()
    apart = [await collect(engine.generate(request)) for request in requests]
    together = await asyncio.gather(*(collect(engine.generate(request)) for request in requests))
    assert [token_ids(chunks) for chunks in apart] == list(map(token_ids, expected))
    assert [token_ids(chunks) for chunks in together] == list(map(token_ids, expected))
    assert list(map(text, together)) == list(map(text, expected))
    usage, other_usage = apart[0][-1].usage, expected[0][-1].usage
    assert usage is not None
    assert other_usage is not None
    assert usage.completion_tokens == other_usage.completion_tokens == 48
    assert replace(await engine.ready(), load_seconds=info.load_seconds) == info


async def test_the_tokens_of_a_prompt_are_those_that_its_answer_tells(
    engine: SupervisedEngine, model_path: Path
) -> None:
    asked = question(PROMPTS[0], replace(SHORT, json_schema="{}"))
    usage = (await collect(engine.generate(asked)))[-1].usage
    assert usage is not None
    assert await engine.count_tokens(asked) == usage.prompt_tokens
    longer = question("the of " * 2000)
    async with running_in_process(model_path, **ONE_THREAD) as other:  # of 1,024 tokens
        assert await engine.count_tokens(longer) == await other.count_tokens(longer) > 2000
    with pytest.raises(InvalidValueError, match="which is not in the vocabulary"):
        await engine.count_tokens(GenerationRequest(prompt=(10**9,)))


async def test_a_count_survives_the_process_that_was_to_make_it(tiny_path: Path) -> None:
    async with running(tiny_path) as engine:
        await engine.ready()
        os.kill(pid(engine), signal.SIGSTOP)
        counting = asyncio.ensure_future(engine.count_tokens(question("the of")))
        gone = asyncio.ensure_future(engine.count_tokens(question("the of")))
        await until(lambda: len(engine._calls) == 2)
        gone.cancel()
        await until(lambda: len(engine._calls) == 1)
        os.kill(pid(engine), signal.SIGKILL)
        assert await counting > 0
        assert engine.metrics.restarts == 1


async def test_a_prompt_format_and_its_stop_reach_the_process(
    tiny_path: Path, model_path: Path
) -> None:
    chatml = find_format("chatml")
    async with running_in_process(model_path, **ONE_THREAD, chat_format=chatml) as other:
        whole = text(await collect(other.generate(question(PROMPTS[0]))))
    stop = whole[10:20]
    cut = replace(chatml, stop=(stop,))
    async with running(model_path, chat_format=cut) as engine:
        info = await engine.ready()
        chunks = await collect(engine.generate(question(PROMPTS[0])))
    assert text(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert (info.chat_format, info.chat_template) == ("chatml", chatml.template)
    async with running(tiny_path, default_chat_format=cut) as engine:
        assert (await engine.ready()).chat_format is None  # the file has a template


async def test_state_from_loading_to_closed(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    config = EngineConfig(model_path=str(tiny_path), **ONE_THREAD)
    engine: Engine = SupervisedEngine(config, log=lines.append)
    engine.start()
    assert state(engine) is EngineState.LOADING
    with pytest.raises(EngineNotReadyError, match="the model is being loaded"):
        await collect(engine.generate(question("the of", SHORT)))
    info = await engine.ready()
    assert info.name == "tiny"
    assert state(engine) is EngineState.READY
    assert not engine.status.reason
    await collect(engine.generate(question("the of", SHORT)))
    await until(lambda: any("mamba" in line for line in lines))  # llama.cpp's log
    metrics = engine.metrics
    assert (metrics.running, metrics.waiting, metrics.slots) == (0, 0, 1)
    assert metrics.generated_tokens == 8
    assert metrics.restarts == 0
    assert metrics.rss_bytes > 1_000_000
    with monkeypatch.context() as patched:  # as where the server is out of file descriptors
        patched.setattr(psutil.Process, "memory_info", Mock(side_effect=OSError(errno.EMFILE, "")))
        assert engine.metrics.rss_bytes == 0
    await engine.aclose()
    await engine.aclose()
    assert state(engine) is EngineState.CLOSED
    with pytest.raises(EngineClosedError):
        await collect(engine.generate(question("the of", SHORT)))
    with pytest.raises(EngineClosedError):
        await engine.ready()


async def test_errors_cross_as_what_they_are(engine: SupervisedEngine) -> None:
    with pytest.raises(ContextLengthError) as caught:
        await collect(engine.generate(question("word " * 3000)))
    assert caught.value.ctx_size == 1024
    assert caught.value.prompt_tokens >= 1024
    with pytest.raises(InvalidValueError, match="token 49152, which is not in the vocabulary"):
        await collect(engine.generate(GenerationRequest(prompt=(49152,))))
    with pytest.raises(PromptError, match="the prompt is empty"):
        await collect(engine.generate(GenerationRequest(prompt="")))
    assert text(await collect(engine.generate(question(PROMPTS[0], SHORT))))


# ---- models that cannot be used -------------------------------------------------------------


async def test_a_file_that_cannot_be_loaded_is_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    async with running(path) as engine:
        outcomes = await asyncio.gather(engine.ready(), engine.ready(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ModelError] * 2
        assert outcomes[0] is not outcomes[1]
        assert "cannot load" in str(outcomes[0])
        assert engine.status.state is EngineState.FAILED
        assert engine.status.reason == str(outcomes[0])
        with pytest.raises(ModelError, match="cannot load"):
            await collect(engine.generate(question(PROMPTS[0])))
        await until(lambda: engine._child is None)
        assert engine.metrics.restarts == 0


async def test_a_process_that_contradicts_itself_is_not_heard_any_more(
    tiny_path: Path, fault: Callable[[str], None]
) -> None:
    """It says that the model cannot be used, then that it is loaded, and does not leave."""
    fault("contradiction")
    async with running(tiny_path) as engine:
        with pytest.raises(ModelError, match="no such model"):
            await engine.ready()
        await until(lambda: engine._child is None)
        assert state(engine) is EngineState.FAILED


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("abort-in-load", r"ended by SIGABRT: model.cpp:7: GGML_ASSERT\(false\) failed"),
        ("quiet-exit", "ended with code 7"),
        ("no-memory", "not enough memory for a context of 8192 tokens"),
        ("garbage", "sent a frame that makes no sense"),
    ],
)
async def test_a_process_that_dies_while_it_loads_is_tried_some_times(
    tiny_path: Path,
    fault: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reason: str,
) -> None:
    monkeypatch.setattr(supervised_module, "_MAX_LOADS", 3)
    fault(name)
    async with running(tiny_path) as engine:
        with pytest.raises(ModelError, match=f"cannot load .*tiny.gguf: .*{reason}"):
            await engine.ready()
        assert engine.status.state is EngineState.FAILED
        assert engine.metrics.restarts == 2


async def test_a_model_that_loads_at_the_second_try_is_ready(
    tiny_path: Path, fault: Callable[[str], None]
) -> None:
    fault("abort-in-load")
    async with running(tiny_path) as engine:
        await until(lambda: engine.status.state is EngineState.RESTARTING)
        assert "SIGABRT" in engine.status.reason
        with pytest.raises(EngineNotReadyError, match=r"SIGABRT.*try again later"):
            await collect(engine.generate(question("the of")))
        fault("")
        await engine.ready()
        assert await collect(engine.generate(question("the of", SHORT)))
        assert engine._failed_loads == 0


# ---- the process dies -----------------------------------------------------------------------


async def test_killed_in_mid_stream_every_answer_ends_and_the_next_process_takes_over(
    engine: SupervisedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    stories = [f"Tell a long story about {subject}." for subject in ("rain", "sand", "ice", "tea")]
    readers = [Reader(engine, question(story, ENDLESS)) for story in stories]
    await until(lambda: all(len(reader.chunks) >= 2 for reader in readers))
    before = engine.metrics
    os.kill(pid(engine), signal.SIGKILL)
    await asyncio.gather(*(reader.task for reader in readers))
    for reader in readers:
        assert isinstance(reader.error, EngineDiedError)
        assert "was killed" in str(reader.error)
        assert reader.chunks[-1].finish_reason is None
    assert len({id(reader.error) for reader in readers}) == 4
    assert engine.status.state is EngineState.RESTARTING
    with pytest.raises(EngineNotReadyError):
        await collect(engine.generate(question(PROMPTS[0])))
    assert engine.metrics.running == 0
    assert [record.getMessage() for record in caplog.records] == [engine.status.reason]
    await engine.ready()
    answer = text(await collect(engine.generate(question(PROMPTS[0]))))
    assert answer.startswith("Paris is the capital of France")
    after = engine.metrics
    assert after.restarts == 1
    assert after.generated_tokens >= before.generated_tokens + 48
    assert after.steps > before.steps


@pytest.mark.parametrize("report_progress", [False, True])
async def test_a_request_without_output_is_sent_again_once(
    tiny_path: Path, report_progress: bool
) -> None:
    async with running(tiny_path) as engine:
        await engine.ready()
        expected = token_ids(await collect(engine.generate(question("and to", SHORT))))
        first = Reader(engine, question("the of", ENDLESS))
        await until(lambda: bool(first.chunks))
        request = replace(question("and to", SHORT), report_progress=report_progress)
        queued = [Reader(engine, request) for _ in range(3)]
        await until(lambda: len(engine._calls) == 4)
        await until(lambda: all(bool(reader.chunks) == report_progress for reader in queued))
        assert (engine.metrics.running, engine.metrics.waiting) == (1, 3)
        os.kill(pid(engine), signal.SIGKILL)
        await until(lambda: engine.status.state is EngineState.RESTARTING)
        assert engine.metrics.waiting == 3
        await asyncio.gather(first.task, *(reader.task for reader in queued))
        assert isinstance(first.error, EngineDiedError)
        for reader in queued:
            assert reader.error is None
            assert token_ids(reader.chunks) == expected


async def test_a_native_abort_in_mid_stream_tells_its_assertion(
    tmp_path: Path, fault: Callable[[str], None]
) -> None:
    path = write_llama(tmp_path / "m.gguf")
    async with running(path, ctx_size=256) as engine:
        await engine.ready()
        undisturbed = token_ids(await collect(engine.generate(question("the of"))))
    # In the first step nothing has come yet: the request is sent again, and kills once more.
    for step in (5, 1):
        fault(f"abort-in-step {step}")
        async with running(path, ctx_size=256) as engine:
            await engine.ready()
            reader = Reader(engine, question("the of"))
            await reader.task
            assert isinstance(reader.error, EngineDiedError)
            assert "ended by SIGABRT" in str(reader.error)
            assert "GGML_ASSERT" in str(reader.error)
            assert len(str(reader.error).splitlines()) == 1
            came = token_ids(reader.chunks)  # what has not left the process dies with it
            assert len(came) < step
            assert came == undisturbed[: len(came)]
            assert step > 1 or engine.metrics.restarts == 1


async def test_an_engine_that_fails_is_started_again(
    tiny_path: Path, fault: Callable[[str], None]
) -> None:
    fault("fail-in-step 3")
    async with running(tiny_path) as engine:
        await engine.ready()
        reader = Reader(engine, question("the of"))
        await reader.task
        assert type(reader.error) is EngineError
        assert "code -3" in str(reader.error)
        await until(lambda: "code -3" in engine.status.reason)
        fault("")
        await engine.ready()
        assert await collect(engine.generate(question("the of", SHORT)))
        assert engine.metrics.restarts == 1


async def test_a_request_does_not_wait_for_ever_for_the_next_process(
    tiny_path: Path, fault: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_module, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(supervised_module, "_TICK_SECONDS", 0.05)
    async with running(tiny_path) as engine:
        await engine.ready()
        first = Reader(engine, question("the of", ENDLESS))
        await until(lambda: bool(first.chunks))
        queued = Reader(engine, question("the of", SHORT))
        await until(lambda: len(engine._calls) == 2)
        fault("slow-load")
        os.kill(pid(engine), signal.SIGKILL)
        await queued.task
        assert isinstance(queued.error, EngineNotReadyError)


async def test_pauses_grow_from_death_to_death_until_it_runs_well(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_module, "_LONGEST_PAUSE", 0.3)
    async with running(tiny_path) as engine:
        pauses = []
        for deaths in range(1, 5):
            await engine.ready()
            if deaths == 4:
                monkeypatch.setattr(supervised_module, "_RAN_WELL_SECONDS", 0.0)
            pauses.append(engine._pause)
            os.kill(pid(engine), signal.SIGKILL)
            await until(lambda: engine.status.state is EngineState.RESTARTING)
            await engine.ready()
            assert engine.metrics.restarts == deaths
        assert pauses == [0.1, 0.2, 0.3, 0.3]
        assert engine._pause == 0.2


async def test_a_process_without_a_sign_of_life_is_killed_with_and_without_work(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(supervised_module, "_MAX_UNANSWERED", 40)
    async with running(tiny_path) as engine:
        await engine.ready()
        await asyncio.sleep(2.5)  # in which it answers pings
        assert engine.metrics.restarts == 0
        reader = Reader(engine, question("the of", ENDLESS))
        await until(lambda: bool(reader.chunks))
        os.kill(pid(engine), signal.SIGSTOP)
        await reader.task
        assert isinstance(reader.error, EngineDiedError)
        assert "no sign of life for 2 seconds" in str(reader.error)
        await engine.ready()
        stopped = pid(engine)
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: engine.status.state is EngineState.RESTARTING)
        await engine.ready()
        assert pid(engine) != stopped
        os.kill(pid(engine), signal.SIGSTOP)
        await engine.aclose()  # which kills it, or `running` complains


async def test_a_load_without_progress_is_given_up(
    tiny_path: Path, fault: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault("slow-load")
    monkeypatch.setattr(supervised_module, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(supervised_module, "_LONGEST_PAUSE", 0.1)
    async with running(tiny_path) as engine:
        with pytest.raises(ModelError, match="made no progress"):
            await engine.ready()


async def test_a_model_that_was_ready_is_tried_again_until_it_loads(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is gone for a while: nobody has to ask for the engine to come back."""
    monkeypatch.setattr(supervised_module, "_LONGEST_PAUSE", 0.1)
    async with running(tiny_path) as engine:
        await engine.ready()
        away = tiny_path.rename(tiny_path.with_suffix(".away"))  # noqa: ASYNC240
        os.kill(pid(engine), signal.SIGKILL)
        await until(lambda: engine.metrics.restarts >= 6)
        assert engine.status.state is EngineState.RESTARTING
        away.rename(tiny_path)
        await engine.ready()
