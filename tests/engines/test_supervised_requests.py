"""Engines in processes of their own: requests that harm, consumers that leave, closing."""

import asyncio
import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmstream_cli.api import EngineConfig, EngineState
from llmstream_cli.engines import supervised as supervised_module
from llmstream_cli.engines.supervised import SupervisedEngine
from llmstream_cli.errors import (
    EngineClosedError,
    EngineDiedError,
    EngineError,
    InvalidValueError,
    PromptError,
)
from tests.engines.processes import ENDLESS, SHORT, Reader, pid, running, until
from tests.engines.test_in_process import GREEDY, PROMPTS, collect, question, token_ids
from tests.gguf_files import write_llama

pytestmark = pytest.mark.slow

# ---- hostile templates ----------------------------------------------------------------------

BURNING = """\
{%- if messages[0]['content'] == 'burn' -%}
    {%- set items = range(2000) | list -%}
    {%- for a in items -%}{%- for b in items -%}{%- for c in items -%}
    {%- endfor -%}{%- endfor -%}{%- endfor -%}
{%- elif messages[0]['content'] == 'hang' -%}
    {%- set n = namespace(text='x') -%}
    {%- for _ in range(23) -%}{%- set n.text = n.text ~ n.text -%}{%- endfor -%}
    {%- if n.text ~ 'a' in [n.text ~ 'b'] * 90000 -%}{%- endif -%}
{%- endif -%}
{{- messages[0]['content'] -}}
"""


@pytest.mark.parametrize("text", ["burn", "hang"])
async def test_a_template_that_never_ends_costs_its_own_request_alone(
    tmp_path: Path, fault: Callable[[str], None], text: str
) -> None:
    """One that hangs compares long texts in a single call, which keeps the GIL."""
    fault("impatient")
    async with running(write_llama(tmp_path / "m.gguf", BURNING), ctx_size=256) as engine:
        await engine.ready()
        process = pid(engine)
        burning = Reader(engine, question(text))
        await until(lambda: bool(engine._calls))
        assert await collect(engine.generate(question("the of", SHORT)))
        await burning.task
        assert isinstance(burning.error, PromptError)
        assert re.search("no prompt within 0.5 seconds|a number without end", str(burning.error))
        assert await collect(engine.generate(question("the of", SHORT)))
        assert pid(engine) == process


async def test_expensive_schemas_cost_no_running_answer(model_path: Path) -> None:
    """One is held by who sent it, the others were sent and left."""
    properties = {f"^a{n}b*$": {"type": "integer"} for n in range(600)}
    expensive = replace(SHORT, json_schema=json.dumps({"patternProperties": properties}))
    async with running(model_path, max_seqs=3) as engine:
        await engine.ready()
        process = pid(engine)
        reader = Reader(engine, question(PROMPTS[0], ENDLESS))
        left = [Reader(engine, question("the of", expensive)) for _ in range(5)]
        held = Reader(engine, question("the of", expensive))
        await until(lambda: bool(reader.chunks))
        for other in left:
            other.task.cancel()
        await held.task
        assert isinstance(held.error, InvalidValueError)
        assert "JSON schema" in str(held.error)
        assert reader.error is None
        assert pid(engine) == process
        reader.task.cancel()


# ---- consumers that leave, or do not read ---------------------------------------------------


async def test_many_generators_closed_at_random_points_leave_nothing(tiny_path: Path) -> None:
    chance = random.Random(7)
    async with running(tiny_path, max_seqs=4) as engine:
        await engine.ready()

        async def one(number: int) -> None:
            chunks = engine.generate(question(f"the of and {number}", ENDLESS))
            if number % 10 == 0:
                await chunks.aclose()  # before its first item
                return
            task = asyncio.ensure_future(anext(chunks))
            if number % 10 == 1:
                await asyncio.sleep(chance.random() / 100)
                task.cancel()  # while it waits, is encoded, or computed
                await asyncio.gather(task, return_exceptions=True)
                return
            await task
            for _ in range(chance.randrange(12)):
                await anext(chunks)
            await chunks.aclose()

        await asyncio.gather(*(one(number) for number in range(200)))
        assert not engine._calls
        # A request that is sent now is answered after all cancellations.
        await collect(engine.generate(question("and to", replace(GREEDY, max_tokens=1))))
        await until(lambda: (engine.metrics.running, engine.metrics.waiting) == (0, 0))


async def test_one_that_does_not_read_stops_no_other(tiny_path: Path) -> None:
    request = question("the of", replace(GREEDY, max_tokens=160))
    async with running(tiny_path, max_seqs=4) as engine:
        await engine.ready()
        slow = engine.generate(request)
        await anext(slow)
        readers = [Reader(engine, request) for _ in range(2)]
        await asyncio.gather(*(reader.task for reader in readers))
        for reader in readers:
            assert reader.error is None
            assert len(token_ids(reader.chunks)) == 160
        assert len(await collect(slow)) == 159
        await until(lambda: engine.metrics.running == 0)


# ---- closing --------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_closing_leaves_no_process_descriptor_or_thread(tiny_path: Path) -> None:
    async with running(tiny_path):
        pass  # what the event loop opens for itself, it opens now
    before = descriptors(), threading.active_count()
    for when in ("loading", "streaming", "dead"):
        async with running(tiny_path) as engine:
            if when == "loading":
                continue
            await engine.ready()
            reader = Reader(engine, question("the of", ENDLESS))
            await until(lambda reader=reader: bool(reader.chunks))  # type: ignore[misc]
            if when == "dead":
                os.kill(pid(engine), signal.SIGKILL)
        await reader.task
        assert isinstance(reader.error, EngineClosedError | EngineDiedError)
    await asyncio.sleep(0)
    assert (descriptors(), threading.active_count()) == before


@pytest.mark.parametrize("name", ["", "slow-load", "deaf"])
async def test_closing_does_not_wait_for_a_load(
    tiny_path: Path, fault: Callable[[str], None], name: str
) -> None:
    fault(name)
    async with running(tiny_path) as engine:
        waiting = asyncio.ensure_future(engine.ready())
        await asyncio.sleep(0)
        await asyncio.gather(engine.aclose(), engine.aclose())
        with pytest.raises(EngineClosedError):
            await waiting


async def test_closing_while_it_pauses_before_a_restart(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervised_module, "_FIRST_PAUSE", 600.0)
    async with running(tiny_path) as engine:
        await engine.ready()
        os.kill(pid(engine), signal.SIGKILL)
        await until(lambda: engine.status.state is EngineState.RESTARTING)
        waiting = asyncio.ensure_future(engine.ready())
        await asyncio.sleep(0)
        await engine.aclose()
        with pytest.raises(EngineClosedError):
            await waiting
        assert engine.metrics.restarts == 0


@pytest.mark.parametrize("lack", ["python", "files"])
async def test_a_restart_that_fails_to_start_is_tried_until_it_succeeds(
    lack: str, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often that is: the model is not to blame."""
    monkeypatch.setattr(supervised_module, "_LONGEST_PAUSE", 0.1)
    tried = 0

    def fail(*_: object, **__: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(errno.EMFILE, "Too many open files")

    never = SupervisedEngine(EngineConfig(model_path=str(tiny_path)))
    async with running(tiny_path) as engine:
        await engine.ready()
        with monkeypatch.context() as patch:
            patch.setattr(
                *((socket, "socketpair") if lack == "files" else (subprocess, "Popen")), fail
            )
            with pytest.raises(EngineError, match="cannot start the engine's process"):
                never.start()
            await never.aclose()
            with pytest.raises(EngineClosedError):
                await never.ready()
            os.kill(pid(engine), signal.SIGKILL)
            await until(lambda: tried > 2 * supervised_module._MAX_LOADS)
            assert "cannot start the engine's process" in engine.status.reason
        await engine.ready()
        assert engine.metrics.restarts == 1
