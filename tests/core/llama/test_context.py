"""How far the context grows, and whether there is memory for it."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.core.llama.context import GrowingContext
from llmstream_cli.errors import ContextMemoryError, EngineError, ModelError
from llmstream_cli.machine import Memory
from tests.gguf_files import (
    write_gemma3,
    write_lfm2,
    write_mamba,
    write_nomic_bert,
    write_phi2,
    write_qwen3,
)

Machine = Callable[[int], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Sets how much memory is available on a machine that reserves nothing."""

    def set_available(num_bytes: int) -> None:
        monkeypatch.setattr("llmstream_cli.core.llama.context.memory", lambda: Memory(0, num_bytes))

    set_available(10**12)
    return set_available


@pytest.fixture
def phi2(tmp_path: Path) -> Model:
    return Model(str(write_phi2(tmp_path / "m.gguf")))


def growing(model: Model, ctx_size: int, **more: float) -> GrowingContext:
    def make(size: int) -> Context:
        return Context(model, ctx_size=size, max_seqs=2, max_batch_tokens=64, threads=1)

    return GrowingContext(make, ctx_size=ctx_size, model_bytes=model.size_bytes, **more)


@pytest.mark.slow
def test_what_a_token_takes_is_read_off_the_log(model_path: Path) -> None:
    model = Model(str(model_path))
    context = growing(model, 8192)
    # Keys and values of 3 heads of 64 numbers of two bytes, in 30 layers, in each of two streams.
    assert context._token_bytes == 2 * 2 * 3 * 64 * 2 * 30
    context.close()


@pytest.mark.parametrize("write", [write_phi2, write_gemma3, write_lfm2, write_mamba])
def test_every_kind_of_memory_grows_with_what_it_holds(
    tmp_path: Path, machine: Machine, write: Callable[[Path], Path]
) -> None:
    model = Model(str(write(tmp_path / "m.gguf")))
    tokens = [5, 6, 7, 8]

    def logits(context: Context, token: int, position: int) -> bytes:
        batch = Batch(64)
        row = batch.add(token, position, 1, output=True)
        context.decode(batch)
        return bytes(context.logits(row))

    found = []
    for grows in (False, True):
        context = growing(model, 1024)
        for position, token in enumerate(tokens):
            logits(context.current, token, position)
        if grows:
            assert context.make_room(1000, wait=True)
            assert context.current.ctx_size == 1024
        found.append(logits(context.current, 9, len(tokens)))
        context.close()
    assert found[0] == found[1]


@pytest.mark.usefixtures("machine")
def test_it_doubles_and_takes_what_it_may_at_the_end(phi2: Model) -> None:
    context = growing(phi2, 3000)
    sizes = []
    for num_tokens in (1, 512, 513, 1024, 1025, 2999):
        assert context.make_room(num_tokens, wait=True)
        sizes.append(context.current.ctx_size)
    assert sizes == [512, 512, 1024, 1024, 3072, 3072]
    context.close()


@pytest.mark.usefixtures("machine")
def test_it_is_ready_soon_where_nobody_waits(phi2: Model) -> None:
    context = growing(phi2, 1024)
    go_on, make = threading.Event(), context._make

    def slow(ctx_size: int) -> Context:
        go_on.wait(60)
        return make(ctx_size)

    context._make = slow
    assert not context.make_room(600, wait=False)
    assert context.make_room(500, wait=False)
    assert context._growth is not None
    go_on.set()
    context._growth.context.result()
    assert context.make_room(600, wait=False)
    context.close()


def test_too_little_memory_is_told_and_changes_nothing(phi2: Model, machine: Machine) -> None:
    context = growing(phi2, 8192)
    per_token, before = context._token_bytes, context.current
    machine(int(phi2.size_bytes + 1500 * per_token))
    with pytest.raises(ContextMemoryError, match="no memory for a context of 2000 tokens"):
        context.make_room(2000, wait=True)
    assert context.current is before
    # The next power of two is too much, what is needed is not.
    assert context.make_room(1030, wait=True)
    assert context.current.ctx_size == 1536
    context.close()


@pytest.mark.usefixtures("machine")
def test_a_growth_that_fails_counts_for_its_own_need_alone(phi2: Model) -> None:
    context = growing(phi2, 8192)
    make = context._make

    def scarce(ctx_size: int) -> Context:
        if ctx_size > 1024:
            raise EngineError("not enough memory for a context")
        return make(ctx_size)

    context._make = scarce
    assert not context.make_room(2000, wait=False)
    assert context.make_room(600, wait=True)
    with pytest.raises(ContextMemoryError, match="not enough memory"):
        context.make_room(2000, wait=True)
    context.close()


@pytest.mark.parametrize("limited_by", ["machine", "max_bytes"])
def test_the_most_is_what_can_be_grown_to(phi2: Model, machine: Machine, limited_by: str) -> None:
    """The old context, half as large, and a copy of a sequence are there at the last growth."""
    probe = growing(phi2, 1024)
    per_token = probe._token_bytes
    probe.close()
    room = int(phi2.size_bytes + 1.75 * 5000 * per_token)
    if limited_by == "machine":
        machine(room)
        context = growing(phi2, 100_000)
    else:
        context = growing(phi2, 100_000, max_bytes=room + 200_000_000 + 512 * per_token)
    assert context.limit_to_memory() == context.max_ctx_size == 5000 // 256 * 256
    for num_tokens in (600, 1100, 2100, context.max_ctx_size):
        assert context.make_room(num_tokens, wait=True)
    context.close()


def test_the_first_context_is_always_there(phi2: Model, machine: Machine) -> None:
    machine(0)
    context = growing(phi2, 4000)
    assert context.limit_to_memory() == 512
    context.close()


@pytest.mark.parametrize(
    "write",
    [
        write_nomic_bert,
        lambda path: write_qwen3(path, pooling_type=3),  # the last token's: an embedding model
        lambda path: write_qwen3(path, pooling_type=4),  # a rank: a reranker
    ],
    ids=["encoder", "embedding", "reranker"],
)
def test_a_model_that_does_not_continue_text_is_refused(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    model = Model(str(write(tmp_path / "m.gguf")))
    with pytest.raises(ModelError, match=r"m\.gguf: it does not continue text.*; choose a model"):
        growing(model, 512)
