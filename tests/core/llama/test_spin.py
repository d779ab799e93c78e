"""How libgomp's threads wait for each other, in processes of their own: it is loaded once."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmstream_cli.core.llama import Batch, Context, Model, SpinSwitch

pytestmark = pytest.mark.slow
STEPS = 20


def sleeps(context: Context, batch: Batch) -> int:
    """Return how often a thread went to sleep in the step where it happened least."""
    counts = []
    for _ in range(STEPS):
        context.truncate_sequence(0, 0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        context.decode(batch)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
    return min(counts)


def num_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def child(path: str) -> dict[str, Any]:
    model = Model(path)
    context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=8, threads=2)
    batch = Batch(8)
    batch.add(100, 0, 0, output=True)
    switch = SpinSwitch()
    context.decode(batch)
    found: dict[str, Any] = {"works": switch.works, "threads": [num_threads()], "sleeps": []}
    for spin in (True, False, False, True, False, True, True):
        switch.set(spin=spin)
        found["sleeps"].append((spin, sleeps(context, batch)))
        found["threads"].append(num_threads())
    found["environment"] = [name for name in os.environ if name.startswith(("OMP_", "GOMP_"))]
    context.close()
    return found


def run_child(path: Path, **variables: str) -> dict[str, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "tests.core.llama.test_spin", str(path)]
    output = subprocess.check_output(command, env=clean | variables, text=True)
    result: dict[str, Any] = json.loads(output)
    return result


def test_threads_sleep_when_they_are_told_to(model_path: Path) -> None:
    found = run_child(model_path)
    assert found["works"]
    assert found["environment"] == []  # nothing is left for processes that this one starts
    spinning = [count for spin, count in found["sleeps"] if spin]
    sleeping = [count for spin, count in found["sleeps"] if not spin]
    assert min(sleeping) > 2 * min(spinning) + 10, found
    first, *threads = found["threads"]
    more = [number - first for number in threads]
    assert [number > 0 for number in more] == [not spin for spin, _ in found["sleeps"]]
    assert more[0] == more[-1] == 0  # all have ended


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "1000")]
)
def test_what_the_user_says_of_openmp_stays(model_path: Path, name: str, value: str) -> None:
    found = run_child(model_path, **{name: value})
    assert not found["works"]
    assert found["environment"] == [name]
    assert len(set(found["threads"])) == 1


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1])))
