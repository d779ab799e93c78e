"""The handles over llama.cpp, on the real model."""

import ctypes
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as C  # noqa: N812

from llmstream_cli.core import llama
from llmstream_cli.core.llama import Batch, Context, DecodeAbortedError, Model, SamplerChain
from llmstream_cli.errors import ModelError, StepRefusedError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(str(model_path))


def context(model: Model, *, ctx_size: int = 512, max_seqs: int = 1) -> Context:
    return Context(model, ctx_size=ctx_size, max_seqs=max_seqs, max_batch_tokens=64, threads=2)


def greedy(model: Model) -> SamplerChain:
    return SamplerChain(iter([C.llama_sampler_init_greedy()]))


def decode(context: Context, tokens: list[int], *, start: int = 0, seq_id: int = 0) -> int:
    """Compute tokens; return the row of the last."""
    batch = Batch(64)
    row = -1
    for position, token in enumerate(tokens, start):
        row = batch.add(token, position, seq_id, output=position == start + len(tokens) - 1)
    context.decode(batch)
    return row


def generate(context: Context, chain: SamplerChain, tokens: list[int], count: int) -> list[int]:
    """Continue a prompt greedily."""
    row, position, drawn = decode(context, tokens), len(tokens), list[int]()
    for _ in range(count):
        drawn.append(chain.sample(context, row))
        row = decode(context, drawn[-1:], start=position)
        position += 1
    return drawn


def test_the_pinned_release_has_the_signatures_that_are_called() -> None:
    """Whoever moves the pin reads llama.cpp's changes, and then changes this test."""
    assert importlib.metadata.version("llama-cpp-python") == "0.3.36"
    penalties = C.llama_sampler_init_penalties
    assert penalties.argtypes == [ctypes.c_int32] * 2 + [ctypes.c_float] * 3
    assert len(C.llama_model_load_from_file.argtypes) == 2
    assert [field[0] for field in C.llama_batch._fields_] == [
        "n_tokens",
        "token",
        "embd",
        "pos",
        "n_seq_id",
        "seq_id",
        "logits",
    ]


@pytest.mark.parametrize(
    "program",
    [
        """
import llmstream_cli.core.llama, sys
assert "numpy" not in sys.modules and "jinja2" not in sys.modules
import llama_cpp
assert llama_cpp.Llama and llama_cpp.llama_decode
""",
        """
import llama_cpp, sys
import llmstream_cli.core.llama.bindings as ours
assert ours.C is sys.modules["llama_cpp.llama_cpp"]
""",
    ],
    ids=["before the package", "after it"],
)
def test_the_bindings_load_nothing_else_and_leave_the_package_importable(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_model_knows_itself(model: Model) -> None:
    assert model.ctx_train == 8192
    assert "llama" in model.description
    assert "Q4_1" in model.description
    assert model.chat_template is not None
    assert "<|im_start|>" in model.chat_template
    assert model.eos_token == "<|im_end|>"
    assert model.leading_token is None
    assert model.load_seconds > 0


@pytest.mark.parametrize(
    ("wanted", "bos", "leading"), [(True, 5, 5), (True, -1, None), (False, 5, None)]
)
def test_a_leading_token_is_one_that_is_wanted_and_exists(
    model: Model, monkeypatch: pytest.MonkeyPatch, wanted: bool, bos: int, leading: int | None
) -> None:
    monkeypatch.setattr(C, "llama_vocab_get_add_bos", lambda _: wanted)
    monkeypatch.setattr(C, "llama_vocab_bos", lambda _: bos)
    assert model.leading_token == leading


def test_control_tokens_are_read_only_on_request(model: Model) -> None:
    text = "<|im_start|>user"
    special, plain = (model.tokenize(text, special=flag) for flag in (True, False))
    assert model.is_control(special[0])
    assert not any(map(model.is_control, plain))
    assert b"".join(map(model.piece, plain)).decode() == text
    assert "<|im_start|>" in {token.text for token in model.control_tokens()}
    assert all(model.is_control(token.id) for token in model.control_tokens())
    (end,) = model.tokenize("<|im_end|>", special=True)
    assert model.is_end_of_generation(end)
    assert not any(map(model.is_end_of_generation, plain))


def test_every_piece_is_whole_however_long(model: Model) -> None:
    pieces = [model.piece(token) for token in range(model.vocab_size)]
    assert max(map(len, pieces)) > 64  # longer than the first buffer
    longest = max(pieces, key=len)
    assert b"".join(map(model.piece, model.tokenize(longest.decode(), special=False))) == longest


def test_text_with_a_lone_surrogate_is_tokenized(model: Model) -> None:
    assert model.tokenize("\ud800", special=False) == model.tokenize("?", special=False)


def test_sequences_do_not_mix(model: Model) -> None:
    prompt = model.tokenize("The capital of France is", special=False)
    other = model.tokenize("One, two, three, four,", special=False)
    alone = greedy(model).sample(ctx := context(model), decode(ctx, prompt))
    both = context(model, max_seqs=2)
    decode(both, other, seq_id=1)
    assert greedy(model).sample(both, decode(both, prompt)) == alone


def test_a_truncated_sequence_goes_on_from_there(model: Model) -> None:
    prompt = model.tokenize("The capital of France is", special=False)
    ctx = context(model)
    first = greedy(model).sample(ctx, decode(ctx, prompt))
    for kept in (0, 3, len(prompt) - 1):
        ctx.truncate_sequence(0, kept)
        row = decode(ctx, prompt[kept:], start=kept)
        assert greedy(model).sample(ctx, row) == first


def test_a_copied_sequence_goes_on_like_the_original(model: Model) -> None:
    prompt = model.tokenize("Once upon a time there was", special=False)
    expected = generate(context(model), greedy(model), prompt, 12)
    both = context(model, max_seqs=2)
    decode(both, prompt)
    decode(both, model.tokenize("something else", special=False), seq_id=1)  # overwritten
    both.copy_sequence(0, 1)
    both.truncate_sequence(1, len(prompt) - 1)
    both.truncate_sequence(0, 0)
    row = decode(both, prompt[-1:], start=len(prompt) - 1, seq_id=1)
    chain, drawn = greedy(model), list[int]()
    for position in range(len(prompt), len(prompt) + 12):
        drawn.append(chain.sample(both, row))
        row = decode(both, drawn[-1:], start=position, seq_id=1)
    assert drawn == expected


def logits_after(context: Context, tokens: list[int], parts: list[int], seq_id: int = 0) -> bytes:
    """Compute tokens in parts of these sizes, the last with the rest; return the last logits."""
    start = 0
    for size in [*parts, len(tokens) - sum(parts)]:
        row = decode(context, tokens[start : start + size], start=start, seq_id=seq_id)
        start += size
    logits = C.llama_get_logits_ith(context.pointer, row)
    return ctypes.string_at(logits, 4 * context._model.vocab_size)


def test_how_a_prompt_is_cut_into_steps_does_not_change_a_bit(model: Model) -> None:
    """In parts of 17 to 63 tokens, that is; hence MAX_PART_TOKENS."""
    tokens = model.tokenize("A careful librarian never lends the book. " * 70, special=False)[:500]
    expected = logits_after(context(model), tokens, [63] * 7)
    for parts in ([40] * 12, [17, 50, 63, 20, 30, 60, 60, 60, 60, 60], [60] * 8):
        assert logits_after(context(model), tokens, parts) == expected


def test_a_prefix_that_was_copied_gives_the_same_logits_to_the_bit(model: Model) -> None:
    prefix = model.tokenize("A careful librarian never lends the book. " * 60, special=False)[:450]
    one, other = (prefix + model.tokenize(text, special=False) for text in ("Why?", "Tell me when"))
    expected = logits_after(context(model), other, [60] * 7)
    both = context(model, max_seqs=2)
    logits_after(both, one, [63] * 7)
    both.copy_sequence(0, 1)
    both.truncate_sequence(1, len(prefix))
    row = decode(both, other[len(prefix) :], start=len(prefix), seq_id=1)
    logits = C.llama_get_logits_ith(both.pointer, row)
    assert ctypes.string_at(logits, 4 * model.vocab_size) == expected


def test_a_grown_context_goes_on_where_the_small_one_was(model: Model) -> None:
    prompt = model.tokenize("Once upon a time there was", special=False)
    large = context(model, ctx_size=1024)
    expected = generate(large, greedy(model), prompt, 24)

    small = context(model, ctx_size=256)
    begun = generate(small, greedy(model), prompt, 12)
    grown = context(model, ctx_size=1024)
    small.move_to(grown)
    small.close()
    assert grown.ctx_size == 1024
    last = len(prompt) + len(begun) - 1
    # The last token's row is in the old context, so it is computed once more.
    C.llama_memory_seq_rm(C.llama_get_memory(grown.pointer), 0, last, -1)
    chain, row, drawn = greedy(model), decode(grown, begun[-1:], start=last), list(begun)
    while len(drawn) < len(expected):
        drawn.append(chain.sample(grown, row))
        last += 1
        row = decode(grown, drawn[-1:], start=last)
    assert drawn == expected


def test_an_aborted_step_ends_with_an_error(model: Model) -> None:
    ctx = context(model)
    ctx.abort()
    with pytest.raises(DecodeAbortedError):
        decode(ctx, model.tokenize("The capital of France is", special=False))


def test_a_refused_step_is_an_error(model: Model) -> None:
    ctx = context(model, ctx_size=256)
    tokens = model.tokenize("word " * 60, special=False)[:60]
    for start in range(0, 240, 60):
        decode(ctx, tokens, start=start)
    with pytest.raises(StepRefusedError, match="no free cell in the KV cache"):
        decode(ctx, tokens, start=240)


def test_what_llama_cpp_asserts_is_asserted_first(model: Model) -> None:
    batch = Batch(1)
    batch.add(1, 0, 0, output=True)
    for token, position, seq_id in ((1, 1, 0), (-1, 0, 0), (1, 0, -1)):
        with pytest.raises(AssertionError):
            batch.add(token, position, seq_id, output=True)
        if batch.struct.n_tokens:
            batch.clear()
    ctx = context(model)
    for call in (
        lambda: model.piece(model.vocab_size),
        lambda: ctx.truncate_sequence(1, 0),
        lambda: ctx.copy_sequence(0, 1),
        lambda: ctx.decode(Batch(1)),
    ):
        with pytest.raises(AssertionError):
            call()


@pytest.mark.parametrize("size", [4, 24, 10_000, 3_000_000])
def test_a_truncated_file_is_refused_with_the_reason(
    tmp_path: Path, model_path: Path, size: int
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model_path.read_bytes()[:size])
    with pytest.raises(ModelError, match="incomplete") as caught:
        Model(str(damaged))
    assert "\n" not in str(caught.value)


def test_the_log_is_silent_until_someone_listens(model_path: Path) -> None:
    program = f"""
from llmstream_cli.core import llama
llama.Model({str(model_path)!r})
lines = []
llama.set_log_sink(lines.append)
llama.Model({str(model_path)!r})
assert any("general.architecture" in line for line in lines), lines
llama.set_log_sink(None)
heard = len(lines)
llama.Model({str(model_path)!r})
assert len(lines) == heard
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_cpu_features_are_those_of_the_original_launch_line() -> None:
    assert list(llama.cpu_features()) == ["avx", "neon", "simd128", "f16c"]
