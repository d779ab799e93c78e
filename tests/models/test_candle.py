"""Candle's files repacked for llama.cpp: the same model, written once and whole."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.errors import ModelError, ModelNotFoundError, NoRoomError
from llmstream_cli.models import candle
from llmstream_cli.models.candle import find_repacked, repack, repacked
from llmstream_cli.models.progress import Progress
from tests.candle_files import Scheme, Shape, write_model, write_tokenizer
from tests.models.progress_log import ProgressLog
from tests.phi import Phi, gelu_tanh

F32, Q4_K, Q8_0 = (
    GGMLQuantizationType.F32,
    GGMLQuantizationType.Q4_K,
    GGMLQuantizationType.Q8_0,
)
SMALL = Shape(feed_forward=512, layers=1)

# How far logits may lie from those of float32, in root mean squares of the logits. llama.cpp keeps
# keys and values in 16 bits and looks GELU up in a table of 16 bits: up to 0.001 was seen. Where
# weights are quantized it rounds activations to 8 bits in blocks, too: up to 0.012 with Q4_K, and
# 0.018 with Q8_0.
BOUNDS = {F32: 0.002, Q4_K: 0.025, Q8_0: 0.035}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept."""
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model-puffin.gguf", SMALL)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "tokenizer.json"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Tokenizer]:
    """A repacked model and the tokenizer that it was given."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    source = write_model(folder / "source.gguf", SMALL)
    repack(source, folder / "tokenizer.json", folder / "model.gguf", Progress())
    return Model(str(folder / "model.gguf")), tokenizer


def left(folder: Path) -> list[str]:
    """Return the names of all files but locks."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


# ---- the same model -------------------------------------------------------------------------


def llama_logits(path: Path, tokens: Sequence[int], ends: Sequence[int]) -> NDArray[np.float32]:
    """Compute a text in pieces; return the logits after each."""
    model = Model(str(path))
    context = Context(model, ctx_size=256, max_seqs=1, max_batch_tokens=64, threads=2)
    logits, start = list[NDArray[np.float32]](), 0
    for end in ends:
        batch = Batch(64)
        for position in range(start, end):
            row = batch.add(tokens[position], position, 0, output=position == end - 1)
        context.decode(batch)
        logits.append(np.array(context.logits(row)))
        start = end
    return np.stack(logits)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["layers", "transformer"])
@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.name)
def test_the_repacked_model_computes_what_the_architecture_says(
    tmp_path: Path, tokenizer: Path, scheme: Scheme, kind: GGMLQuantizationType
) -> None:
    source = write_model(tmp_path / "source.gguf", Shape(scheme), kind)
    repack(source, tokenizer, tmp_path / "model.gguf", Progress())
    tokens = np.random.default_rng(3).integers(0, 400, 40).tolist()
    ends = [1, 2, 9, 17, 40]
    logits = llama_logits(tmp_path / "model.gguf", tokens, ends)

    def distance(
        rotated: int = 32,
        head_size: int = 64,
        activation: Callable[[NDArray[np.float32]], NDArray[np.float32]] = gelu_tanh,
    ) -> float:
        """Return how far the logits lie apart at the worst place, in their own root mean square."""
        phi = Phi(source, rotated=rotated, head_size=head_size, activation=activation)
        right = phi.logits(tokens)[[end - 1 for end in ends]]
        return float(np.sqrt(((logits - right) ** 2).mean(-1) / right.var(-1)).max())

    assert distance() < BOUNDS[kind]
    # It tells a model apart that rotates more or less of its heads, or has others.
    assert distance(rotated=64) > 10 * BOUNDS[kind]
    assert distance(rotated=16) > 10 * BOUNDS[kind]
    assert distance(head_size=32) > 10 * BOUNDS[kind]
    if kind is F32:  # and other activations; erf and tanh differ less than 16 bits can tell
        assert distance(activation=lambda x: x / (1 + np.exp(-1.702 * x))) > 2 * BOUNDS[kind]


@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.name)
def test_no_weight_is_touched(tmp_path: Path, tokenizer: Path, kind: GGMLQuantizationType) -> None:
    source = write_model(tmp_path / "source.gguf", Shape(), kind, extra={"a.inv_freq": (16,)})
    repack(source, tokenizer, tmp_path / "model.gguf", Progress())
    before, after = (
        {t.name: (int(t.tensor_type), t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
        for reader in (GGUFReader(source), GGUFReader(tmp_path / "model.gguf"))
    )
    del before["a.inv_freq"]
    assert after["blk.1.ffn_up.weight"] == before["layers.2.mlp.fc1.weight"]
    assert after["output.bias"] == before["layers.3.linear.bias"]
    assert sorted(map(repr, after.values())) == sorted(map(repr, before.values()))
    assert kind.name in Model(str(tmp_path / "model.gguf")).description


def test_one_token_begins_and_ends_a_text_and_none_is_put_first(
    pair: tuple[Model, Tokenizer],
) -> None:
    model, tokenizer = pair
    (end,) = tokenizer.encode("<|endoftext|>").ids
    assert model.bos_token == model.eos_token == "<|endoftext|>"
    assert model.end_tokens == (end,)
    assert [token.id for token in model.control_tokens()] == [end]
    assert model.leading_token is None
    assert model.tokenize("<|endoftext|>", special=True) == [end]
    assert end not in model.tokenize("<|endoftext|>", special=False)


@given(
    text=st.text(st.sampled_from("ab '\t\n.,1é京🎈") | st.characters(codec="utf-8"), max_size=40)
)
@example("a  b   c    d" + " " * 40 + "e" + " " * 7)
@example("def f(x):\n    if x:\n\t\treturn 1\n\t\t\t\t\t\t\t\t\t\t\tpass  \n\n")
@example("It's they've I'm we'll he'd CAN'T 1994 3.14159 1,000,000 ½ ² ٣")
@example("東京で会いましょう。здравствуй 👩‍👩‍👧‍👦 🇫🇷 e\u0301 \u200b \u00a0 \x00\x01\x7f\r\n\r\n\t ")
@example("!!!??? --- *** <<< [PAD450] <|im_end|>")
def test_any_text_has_the_tokens_that_the_tokenizer_gives_it(
    pair: tuple[Model, Tokenizer], text: str
) -> None:
    model, tokenizer = pair
    tokens = model.tokenize(text, special=True)
    assert tokens == tokenizer.encode(text).ids
    assert b"".join(map(model.piece, tokens)).decode() == text


# ---- once, and whole ------------------------------------------------------------------------


def test_the_result_is_kept_and_found_again(cache: Path, source: Path, tokenizer: Path) -> None:
    blob = source.rename(source.with_name("0123abcd"))  # as in the Hub's cache
    source.symlink_to(blob)
    assert find_repacked(source, tokenizer) is None
    log = ProgressLog()
    path = repacked(source, tokenizer, log)
    size = sum(tensor.n_bytes for tensor in GGUFReader(path).tensors)
    (work,) = log.works
    assert (work.what, work.total_bytes) == ("repacking model-puffin.gguf", size)
    assert (work.done_bytes, work.ended) == (size, True)
    assert path.parent == cache / "repacked"
    assert path.name.startswith("model-puffin-")
    assert repacked(source, tokenizer, log) == find_repacked(source, tokenizer) == path
    assert len(log.works) == 1
    assert left(cache) == [path.name]


def test_it_is_made_again_when_a_source_has_changed_or_it_is_not_whole(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    path = repacked(source, tokenizer, Progress())
    whole = path.read_bytes()
    for change in (
        lambda: path.write_bytes(b"GGUF"),
        lambda: path.write_bytes(whole[:-100]),
        lambda: write_model(source, SMALL, Q8_0),
        lambda: os.utime(source, ns=(0, 0)),  # the same name holds another file of that size
        lambda: write_tokenizer(tokenizer, pairs=False),
    ):
        change()
        assert find_repacked(source, tokenizer) is None
        assert repacked(source, tokenizer, Progress()) == path
    assert path.read_bytes() != whole
    assert left(cache) == [path.name]


def test_models_of_one_name_in_two_folders_are_kept_apart(
    cache: Path, source: Path, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = write_model(tmp_path / "other" / source.name, SMALL, Q8_0)
    assert repacked(source, tokenizer, Progress()) != repacked(other, tokenizer, Progress())
    assert find_repacked(source, tokenizer) is not None


def start(source: Path, tokenizer: Path, *pause: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.models.repack_candle", str(source), str(tokenizer), *pause],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    return next(line for line in process.stdout if word in line)


@pytest.mark.slow
def test_of_several_processes_one_writes_and_the_others_wait(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    with start(source, tokenizer, "pause") as killed:
        read_until(killed, "paused")
        killed.kill()
    assert [name for name in left(cache) if name.endswith(".part")]
    assert find_repacked(source, tokenizer) is None
    with start(source, tokenizer, "pause") as first:
        read_until(first, "paused")
        others = [start(source, tokenizer) for _ in range(2)]
        for other in others:
            assert "waiting for it" in read_until(other, "note")
        outputs = [first.communicate("go on\n")[0]]
    outputs += [other.communicate(timeout=120)[0] for other in others]
    assert not any("repacking" in output for output in outputs)  # but by the first
    path = find_repacked(source, tokenizer)
    assert path is not None
    assert {output.split()[-1] for output in outputs} == {str(path)}
    assert left(cache) == [path.name]  # not what the killed one had begun


# ---- when it cannot be done -----------------------------------------------------------------


class Meddling(Progress):
    """Does something once the copying begins."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        self._act()


def test_what_ends_it_leaves_an_older_result_and_nothing_else(
    tmp_path: Path, source: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    target = folder / "model.gguf"
    target.write_bytes(b"older")

    def fail(error: BaseException) -> None:
        raise error

    def refused(error: type[BaseException], match: str, act: Callable[[], object]) -> None:
        with pytest.raises(error, match=match):
            repack(source, tokenizer, target, Meddling(act))
        assert target.read_bytes() == b"older"
        assert left(folder) == [target.name]

    refused(KeyboardInterrupt, "^$", lambda: fail(KeyboardInterrupt()))
    refused(NoRoomError, "disk of .* is full", lambda: fail(OSError(errno.ENOSPC, "No space")))
    refused(ModelError, "has changed while it was repacked", lambda: os.utime(source, ns=(0, 0)))
    size = source.stat().st_size
    refused(ModelError, "became shorter while it was read", lambda: os.truncate(source, size // 2))
    refused(ModelError, r"is incomplete: \d+ bytes are missing", list)
    write_model(source, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(candle, "free_disk", lambda _: 100_000)
        refused(NoRoomError, r"needs \d+ kB and .* has 100 kB free: make room", list)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limit[1]))
    try:
        refused(ModelError, r"cannot make .*: File too large", list)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    content, name = bytearray(source.read_bytes()), b"layers.1.ln.weight"
    at = content.index(name) + len(name) + 4 + 8  # its dimensions, then its one size
    content[at : at + 4] = (24).to_bytes(4, "little")  # I8: fits the room of 32 bits
    source.write_bytes(content)
    refused(ModelError, r"attn_norm.weight' must not be written as I8", list)
    write_model(source, Shape(feed_forward=256, layers=1, rows=256))
    refused(ModelError, "has 439 tokens, and the model 256", list)


def test_files_and_folders_that_are_not_there_are_told(
    cache: Path, source: Path, tokenizer: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = source.with_name("none")
    for pair in ((none, tokenizer), (source, none)):
        with pytest.raises(ModelNotFoundError, match="there is no file"):
            repacked(*pair, Progress())
    with pytest.raises(ModelError, match="is no Phi model as candle quantized it"):
        repacked(model_path, tokenizer, Progress())
    monkeypatch.setenv("LLMSTREAM_CACHE", str(source / "cache"))
    with pytest.raises(ModelError, match=r"cannot make .*: Not a directory"):
        repacked(source, tokenizer, Progress())
