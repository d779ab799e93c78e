"""The tiny models are what they claim to be; and what llama.cpp remembers, forgets and copies.

The second half records facts of the pinned release, on which the prefix cache relies. "The same
logits" are those of a new context that has computed the same tokens and nothing else.
"""

import ctypes
import random
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from llama_cpp import llama_cpp as C  # noqa: N812
from numpy.typing import NDArray

from llmstream_cli.core.llama import Batch, Context, Model, SamplerChain
from tests import gguf_files

PARTIAL_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY: without what attends to everything
MAX_BATCH_TOKENS = 64
CTX_SIZE = 512
Logits = NDArray[np.float64]


class Kind(NamedTuple):
    """What a tiny model is."""

    ctx_train: int = 1024
    recurrent: bool = False
    hybrid: bool = False
    window: int = 0
    template: str | None = gguf_files.CHATML_TEMPLATE
    leading_token: int | None = None

    @property
    def goes_back(self) -> bool:
        """Whether it keeps what it computed for each token, instead of one state for all."""
        return not self.recurrent and not self.hybrid


KINDS = {
    "llama": Kind(ctx_train=256, template=gguf_files.LLAMA2_TEMPLATE, leading_token=1),
    "phi2": Kind(ctx_train=512, template=None),
    "qwen3": Kind(template=gguf_files.THINKING_TEMPLATE),
    "gemma3": Kind(window=gguf_files.SLIDING_WINDOW),
    "mamba": Kind(recurrent=True),
    "lfm2": Kind(hybrid=True),
}
GO_BACK = [name for name, kind in KINDS.items() if kind.goes_back]
GO_ON_ONLY = [name for name, kind in KINDS.items() if not kind.goes_back]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("gguf")
    return {name: Model(str(write(folder, name))) for name in KINDS}


def write(folder: Path, name: str) -> Path:
    writers = {
        "llama": gguf_files.write_llama,
        "phi2": gguf_files.write_phi2,
        "qwen3": gguf_files.write_qwen3,
        "gemma3": gguf_files.write_gemma3,
        "mamba": gguf_files.write_mamba,
        "lfm2": gguf_files.write_lfm2,
    }
    return writers[name](folder / f"{name}.gguf")


class Memory:
    """A context whose settings are all open, and the memory in it."""

    def __init__(self, model: Model, *, max_seqs: int = 1, **settings: int) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = CTX_SIZE * max_seqs
        params.n_batch = params.n_ubatch = MAX_BATCH_TOKENS
        params.n_seq_max = params.n_outputs_max = max_seqs
        params.n_threads = params.n_threads_batch = 1
        params.kv_unified = params.swa_full = False
        for name, value in settings.items():
            setattr(params, name, value)
        self.model = model
        self.pointer = C.llama_init_from_model(model.pointer, params)
        weakref.finalize(self, C.llama_free, self.pointer)
        self._memory = C.llama_get_memory(self.pointer)

    def compute(
        self, tokens: list[int], *, start: int = 0, seq_id: int = 0, step: int = MAX_BATCH_TOKENS
    ) -> Logits:
        """Compute tokens, some at a time; return the logits of the last."""
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            status = self.decode([(part, start + first, seq_id)])
            assert status == 0, status
        return self.logits(len(part) - 1)

    def decode(self, parts: list[tuple[list[int], int, int]]) -> int:
        """Compute parts (tokens, first position, sequence) in one step; return the status."""
        batch = Batch(MAX_BATCH_TOKENS)
        for tokens, start, seq_id in parts:
            for index, token in enumerate(tokens):
                batch.add(token, start + index, seq_id, output=index == len(tokens) - 1)
        return int(C.llama_decode(self.pointer, batch.struct))

    def logits(self, row: int) -> Logits:
        return np.array(C.llama_get_logits_ith(self.pointer, row)[: self.model.vocab_size])

    def remove(self, start: int, *, seq_id: int = 0) -> bool:
        """Remove all from a position on; return what llama.cpp says."""
        return bool(C.llama_memory_seq_rm(self._memory, seq_id, start, -1))

    def copy(self, source: int, target: int) -> None:
        C.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def positions(self, seq_id: int = 0) -> tuple[int, int]:
        """Return the first and the last position in memory."""
        return (
            C.llama_memory_seq_pos_min(self._memory, seq_id),
            C.llama_memory_seq_pos_max(self._memory, seq_id),
        )

    def save(self, *, seq_id: int = 0, flags: int = 0) -> bytes:
        size = C.llama_state_seq_get_size_ext(self.pointer, seq_id, flags)
        state = (ctypes.c_uint8 * size)()
        assert C.llama_state_seq_get_data_ext(self.pointer, state, size, seq_id, flags) == size
        return bytes(state)

    def restore(self, state: bytes, *, seq_id: int = 0, flags: int = 0) -> None:
        size = len(state)
        data = (ctypes.c_uint8 * size).from_buffer_copy(state)
        assert C.llama_state_seq_set_data_ext(self.pointer, data, size, seq_id, flags) == size


def tokens_of(model: Model, count: int, *, seed: int) -> list[int]:
    """Return tokens at random, without bytes and control tokens."""
    return random.Random(seed).choices(range(259, model.vocab_size - 3), k=count)


def expected(model: Model, tokens: list[int]) -> Logits:
    return Memory(model).compute(tokens)


def same(logits: Logits, others: Logits) -> bool:
    """Tell whether logits differ by no more than rounding in the KV cache (f16) explains.

    How the tokens are split into steps alone makes differences of up to 0.05.
    """
    return float(np.abs(logits - others).max()) < 0.1


# --- The models


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_of_its_kind(models: dict[str, Model], name: str) -> None:
    model, kind = models[name], KINDS[name]
    assert model.description == f"{name} ?B all F32"
    assert model.ctx_train == kind.ctx_train
    assert model.chat_template == kind.template
    assert model.leading_token == kind.leading_token
    assert C.llama_model_is_recurrent(model.pointer) == kind.recurrent
    assert C.llama_model_is_hybrid(model.pointer) == kind.hybrid
    assert C.llama_model_n_swa(model.pointer) == kind.window


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_the_same_each_time(tmp_path: Path, name: str) -> None:
    first = write(tmp_path, name).read_bytes()
    assert len(first) < 1_000_000
    assert write(tmp_path, name).read_bytes() == first


def test_sentencepiece_puts_a_space_first_and_keeps_the_rest(models: dict[str, Model]) -> None:
    model = models["llama"]
    for text in ("The time of which she said no.", "  two  spaces\n", "naïve 東京 🙂"):
        tokens = model.tokenize(text, special=False)
        assert b"".join(map(model.piece, tokens)).decode() == " " + text
    assert len(model.tokenize("which would have been", special=False)) == 4
    assert model.tokenize("<s></s>", special=True) == [1, 2]
    assert (model.bos_token, model.eos_token) == ("<s>", "</s>")
    assert model.is_end_of_generation(2)


@pytest.mark.parametrize("name", ["phi2", "gemma3", "mamba", "lfm2"])
def test_the_byte_level_vocabulary_keeps_text(models: dict[str, Model], name: str) -> None:
    model = models[name]
    for text in ("The time of which she said no.", "  two  spaces\n", "naïve 東京 🙂"):
        tokens = model.tokenize(text, special=False)
        assert b"".join(map(model.piece, tokens)).decode() == text
    assert len(model.tokenize(" which would have been", special=False)) == 4
    control = model.tokenize("<|im_start|><|im_end|><|endoftext|>", special=True)
    assert len(control) == 3
    assert all(map(model.is_control, control))
    assert model.is_end_of_generation(control[1])


@pytest.mark.parametrize("name", KINDS)
def test_tokens_one_by_one_and_in_one_step_have_the_same_logits(
    models: dict[str, Model], name: str
) -> None:
    model = models[name]
    tokens = tokens_of(model, 40, seed=0)
    assert same(Memory(model).compute(tokens, step=1), Memory(model).compute(tokens))
    other_first = [*tokens_of(model, 1, seed=1), *tokens[1:]]
    if not KINDS[name].recurrent:  # whose state fades
        assert not same(Memory(model).compute(tokens), Memory(model).compute(other_first))


@pytest.mark.parametrize("name", KINDS)
def test_greedy_output_is_varied_text_with_few_near_ties(
    models: dict[str, Model], name: str
) -> None:
    model = models[name]

    def generate() -> tuple[list[int], list[float]]:
        context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=64, threads=1)
        chain = SamplerChain(iter([C.llama_sampler_init_greedy()]))
        batch, drawn, gaps = Batch(64), list[int](), list[float]()
        prompt = model.tokenize("The time of which she said no.", special=False)
        for position, token in enumerate(prompt):
            row = batch.add(token, position, 0, output=position == len(prompt) - 1)
        for position in range(len(prompt), len(prompt) + 20):
            context.decode(batch)
            logits = C.llama_get_logits_ith(context.pointer, row)[: model.vocab_size]
            second, first = sorted(logits)[-2:]
            gaps.append(first - second)
            drawn.append(chain.sample(context, row))
            batch.clear()
            row = batch.add(drawn[-1], position, 0, output=True)
        return drawn, gaps

    drawn, gaps = generate()
    assert generate()[0] == drawn
    assert len(set(drawn)) >= 10
    assert b"".join(map(model.piece, drawn)).decode().isprintable()
    assert not any(map(model.is_control, drawn))
    assert sorted(gaps)[2] > 0.05  # chance leaves one in twenty or so below
    assert sorted(gaps)[10] > 0.5


# --- Removing the tail of a sequence


@pytest.mark.parametrize("name", GO_BACK)
@pytest.mark.parametrize("kept", [1, 40, 99])
def test_attention_goes_back_to_any_token(models: dict[str, Model], name: str, kept: int) -> None:
    model = models[name]
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model)
    memory.compute(tokens)
    assert memory.remove(kept)
    assert memory.positions() == (0, kept - 1)
    assert same(memory.compute(others, start=kept), expected(model, tokens[:kept] + others))


@pytest.mark.parametrize("name", GO_ON_ONLY)
@pytest.mark.parametrize("kept", [1, 40, 99])
def test_a_recurrent_state_never_goes_back(models: dict[str, Model], name: str, kept: int) -> None:
    """The refusal changes nothing, a hybrid's attention included: the sequence can go on."""
    model = models[name]
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model)
    memory.compute(tokens)
    assert not memory.remove(kept)
    assert memory.positions() == (99, 99)  # the state after the last token is all there is
    assert memory.decode([(others, kept, 0)]) == -1  # positions must go on where they were
    assert same(memory.compute(others, start=100), expected(model, tokens + others))


@pytest.mark.parametrize("name", KINDS)
def test_to_remove_nothing_or_everything_always_works(models: dict[str, Model], name: str) -> None:
    model = models[name]
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model)
    assert memory.remove(0)
    memory.compute(tokens)
    assert memory.remove(100)
    assert same(memory.compute(others, start=100), expected(model, tokens + others))
    assert memory.remove(0)
    assert memory.positions() == (-1, -1)
    assert same(memory.compute(others), expected(model, others))


@pytest.mark.parametrize(
    ("kept", "right"), [(300, True), (150, True), (59, True), (58, False), (40, False)]
)
def test_a_window_goes_back_as_far_as_its_cells_are_there_and_never_says_no(
    models: dict[str, Model], kept: int, right: bool
) -> None:
    """Of 300 tokens the window's layers have the last 256, from 44 on, whatever the window.

    The next token, at `kept`, sees the `window - 1` tokens before it: they must all be there, so
    going back is right while `first <= max(0, kept - window + 1)`, with `first` as it was before.
    """
    model, window = models["gemma3"], KINDS["gemma3"].window
    tokens, other = tokens_of(model, 300, seed=0), tokens_of(model, 1, seed=1)
    memory = Memory(model)
    memory.compute(tokens)
    first, _ = memory.positions()
    assert first == 300 - 256
    assert right == (first <= max(0, kept - window + 1))
    assert memory.remove(kept)  # even where it is wrong
    assert memory.positions() == ((first, kept - 1) if kept > first else (-1, -1))
    logits = memory.compute(other, start=kept)
    assert same(logits, expected(model, tokens[:kept] + other)) == right


@pytest.mark.parametrize("kept", [1, 40, 58, 150])
def test_a_window_in_a_full_cache_goes_back_to_any_token(
    models: dict[str, Model], kept: int
) -> None:
    """With `swa_full` the window's layers need as much memory as all the others."""
    model = models["gemma3"]
    tokens, others = tokens_of(model, 300, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model, swa_full=True)
    memory.compute(tokens)
    assert memory.positions() == (0, 299)
    assert memory.remove(kept)
    assert same(memory.compute(others, start=kept), expected(model, tokens[:kept] + others))


def test_snapshots_let_few_architectures_go_back_within_the_last_step(
    models: dict[str, Model],
) -> None:
    """With `n_rs_seq` (experimental) some can undo tokens of the last step, and of no other.

    They say yes to `n_rs_seq` tokens back; beyond the last step the state is then another one. So
    it is made for drafts that turn out wrong, and of no use to go back in what was generated.
    """
    model = models["lfm2"]
    tokens, other = tokens_of(model, 100, seed=0), tokens_of(model, 1, seed=1)
    for step, back, right in ((64, 8, True), (3, 1, True), (3, 3, False), (1, 1, False)):
        memory = Memory(model, n_rs_seq=8)
        memory.compute(tokens[:60])
        memory.compute(tokens[60:90], start=60, step=step)
        kept = 90 - back
        assert memory.remove(kept)
        logits = memory.compute(other, start=kept)
        assert same(logits, expected(model, tokens[:kept] + other)) == right, (step, back)

    memory = Memory(model, n_rs_seq=8)
    memory.compute(tokens)
    assert not memory.remove(91)  # more than 8 back
    assert memory.remove(98)
    assert not memory.remove(97)  # once only, until something is computed

    # mamba cannot: the setting is ignored.
    assert C.llama_n_rs_seq(memory.pointer) == 8
    assert C.llama_n_rs_seq(Memory(models["mamba"], n_rs_seq=8).pointer) == 0


# --- Copying a sequence


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [100, 300])
def test_a_copy_and_its_original_both_go_on(
    models: dict[str, Model], name: str, count: int
) -> None:
    model = models[name]
    tokens = tokens_of(model, count, seed=0)
    one, two = tokens_of(model, 6, seed=1), tokens_of(model, 6, seed=2)
    memory = Memory(model, max_seqs=2)
    memory.compute(two, seq_id=1)  # is overwritten
    memory.compute(tokens)
    memory.copy(0, 1)
    assert memory.positions(0) == memory.positions(1)
    assert same(memory.compute(two, start=count, seq_id=1), expected(model, tokens + two))
    assert same(memory.compute(one, start=count), expected(model, tokens + one))
    # In one step, and of different lengths.
    last = count + 6
    assert memory.decode([(one[:3], last, 1), (two[:1], last, 0)]) == 0
    assert same(memory.logits(2), expected(model, tokens + two + one[:3]))
    assert same(memory.logits(3), expected(model, tokens + one + two[:1]))


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_outlives_its_original(models: dict[str, Model], name: str) -> None:
    """The cells are copied only at the next step, but before that step writes into the original."""
    model = models[name]
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model, max_seqs=2)
    memory.compute(tokens)
    memory.copy(0, 1)
    assert memory.remove(0)
    assert same(memory.compute(others), expected(model, others))
    assert same(memory.compute(others, start=100, seq_id=1), expected(model, tokens + others))


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_goes_back_as_its_original_would(models: dict[str, Model], name: str) -> None:
    """Neither success nor refusal touches the original."""
    model, goes_back = models[name], KINDS[name].goes_back
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model, max_seqs=2)
    memory.compute(tokens)
    memory.copy(0, 1)
    assert memory.remove(40, seq_id=1) == goes_back
    kept = 40 if goes_back else 100
    logits = memory.compute(others, start=kept, seq_id=1)
    assert same(logits, expected(model, tokens[:kept] + others))
    assert same(memory.compute(others, start=100), expected(model, tokens + others))


@pytest.mark.parametrize(("kept", "right"), [(59, True), (58, False)])
def test_a_copied_window_goes_back_no_further_than_its_original(
    models: dict[str, Model], kept: int, right: bool
) -> None:
    model = models["gemma3"]
    tokens, other = tokens_of(model, 300, seed=0), tokens_of(model, 1, seed=1)
    memory = Memory(model, max_seqs=2)
    memory.compute(tokens)
    memory.copy(0, 1)
    assert memory.remove(kept, seq_id=1)
    logits = memory.compute(other, start=kept, seq_id=1)
    assert same(logits, expected(model, tokens[:kept] + other)) == right


def test_snapshots_of_a_copy_are_those_of_its_original(models: dict[str, Model]) -> None:
    """With `n_rs_seq`, going back in a copy that has not gone on moves the original back too."""
    model = models["lfm2"]
    tokens = tokens_of(model, 100, seed=0)
    memory = Memory(model, max_seqs=2, n_rs_seq=8)
    memory.compute(tokens)
    memory.copy(0, 1)
    assert memory.remove(96, seq_id=1)
    assert memory.positions(0) == (95, 95)
    assert memory.decode([([300], 100, 0)]) == -1


# --- States


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_can_be_saved_only_after_the_next_step(models: dict[str, Model], name: str) -> None:
    """Before, the state has the cells as they were; a recurrent state is shared, so it is right."""
    model = models[name]
    tokens, others = tokens_of(model, 100, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model, max_seqs=2)
    memory.compute(tokens)
    memory.copy(0, 1)
    early = memory.save(seq_id=1)
    memory.compute(others[:1], start=100)
    late = memory.save(seq_id=1)
    for state, right in ((early, KINDS[name].recurrent), (late, True)):
        other = Memory(model, max_seqs=2)  # attention's state needs just as many streams
        other.restore(state)
        logits = other.compute(others, start=100)
        assert same(logits, expected(model, tokens + others)) == right


def test_a_moved_window_leaves_behind_what_is_outside_of_it(models: dict[str, Model]) -> None:
    """A state has only the window's cells, so after a move one token back is the most."""
    model, window = models["gemma3"], KINDS["gemma3"].window
    tokens, other = tokens_of(model, 100, seed=0), tokens_of(model, 1, seed=1)
    memory = Memory(model)
    memory.compute(tokens)
    state = memory.save()
    for kept, right in ((100, True), (99, True), (90, False)):
        moved = Memory(model)
        moved.restore(state)
        assert moved.positions() == (100 - window, 99)
        assert moved.remove(kept)
        logits = moved.compute(other, start=kept)
        assert same(logits, expected(model, tokens[:kept] + other)) == right


@pytest.mark.parametrize("name", ["gemma3", "mamba", "lfm2"])
def test_every_model_goes_back_to_a_saved_partial_state(
    models: dict[str, Model], name: str
) -> None:
    """The state without what attends to everything; then the rest is removed as usual."""
    model = models[name]
    tokens, others = tokens_of(model, 400, seed=0), tokens_of(model, 12, seed=1)
    memory = Memory(model)
    memory.compute(tokens[:90])
    state = memory.save(flags=PARTIAL_ONLY)
    assert (len(state) < len(memory.save())) == (not KINDS[name].recurrent)
    memory.compute(tokens[90:], start=90)
    memory.restore(state, flags=PARTIAL_ONLY)
    assert memory.remove(90)  # after restoring, not before: a hybrid refuses it before
    assert same(memory.compute(others, start=90), expected(model, tokens[:90] + others))
