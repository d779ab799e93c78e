"""The engine's process with the fault that the variable LLAMA_FAULT names; without one it is sound.

Run as `python -m tests.engines.faulty_worker` in place of `llmstream_cli.engines.worker`.
"""

import functools
import itertools
import os
import sys
import time
from typing import Any

from llmstream_cli.api import ModelInfo
from llmstream_cli.core.llama import Batch, Context
from llmstream_cli.core.llama.bindings import C
from llmstream_cli.core.step_loop import StepLoop
from llmstream_cli.engines import worker
from llmstream_cli.engines.encoding import EncodingPool, Lane
from llmstream_cli.engines.ipc import Ended, Failure, Loaded, dump_report
from llmstream_cli.errors import EngineError, ModelError


def break_an_assertion(context: Context) -> None:
    """Make a mistake that llama.cpp answers with SIGABRT."""
    C.llama_memory_seq_rm(C.llama_get_memory(context.pointer), 1_000_000, 0, -1)


def abort_in_step(number: int) -> None:
    steps, decode = itertools.count(1), Context.decode

    def faulty(self: Context, batch: Batch) -> None:
        if next(steps) == number:
            break_an_assertion(self)
        decode(self, batch)

    Context.decode = faulty  # type: ignore[method-assign]


def fail_in_step(number: int) -> None:
    steps, decode = itertools.count(1), Context.decode

    def faulty(self: Context, batch: Batch) -> None:
        if next(steps) == number:
            raise EngineError("llama.cpp failed to compute a step (code -3)")
        decode(self, batch)

    Context.decode = faulty  # type: ignore[method-assign]


def load(before: Any) -> None:
    sound = StepLoop._load

    def faulty(self: StepLoop) -> Any:
        before()
        return sound(self)

    StepLoop._load = faulty  # type: ignore[method-assign]


def abort() -> None:
    print("model.cpp:7: GGML_ASSERT(false) failed", file=sys.stderr, flush=True)
    os.abort()


def refuse_memory() -> None:
    raise EngineError("not enough memory for a context of 8192 tokens")


match os.environ.get("LLAMA_FAULT", "").split():
    case []:
        pass
    case ["abort-in-load"]:
        load(abort)
    case ["abort-in-step", number]:
        abort_in_step(int(number))
    case ["fail-in-step", number]:
        fail_in_step(int(number))
    case ["no-memory"]:
        load(refuse_memory)
    case ["slow-load"]:
        load(functools.partial(time.sleep, 600))
    case ["garbage"]:
        os.write(0, b"\x00\x00\x00\x05hello")
        time.sleep(600)
    case ["contradiction"]:
        info = ModelInfo("model", "", 0, 0.0, {})
        ended = Ended(Failure.of(ModelError("no such model")))
        bodies = dump_report(ended), dump_report(Loaded(info))  # which come in one piece
        os.write(0, b"".join(len(body).to_bytes(4, "big") + body for body in bodies))
        time.sleep(600)
    case ["deaf"]:
        time.sleep(600)
    case ["quiet-exit"]:
        sys.exit(7)
    case ["outlives-parent"]:  # the kernel is not asked to kill it
        vars(worker)["die_with_parent"] = lambda: None
    case ["impatient"]:
        slow = Lane(places=1, seconds=0.5)
        vars(worker)["EncodingPool"] = functools.partial(EncodingPool, slow=slow)
    case fault:
        raise AssertionError(fault)

if __name__ == "__main__":
    worker.main()
