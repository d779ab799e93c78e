"""Candle's files repacked for llama.cpp: the same model, written once and whole."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmstream_cli.core.llama import Batch, Context, Model
from llmstream_cli.errors import ModelError, ModelNotFoundError, NoRoomError
from llmstream_cli.models import candle
from llmstream_cli.models.candle import find_repacked, repack, repacked
from llmstream_cli.models.progress import Progress
from tests.candle_files import Scheme, Shape, write_model, write_tokenizer
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


class Recorder(Progress):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.begun = list[tuple[str, int]]()
        self.advanced = 0
        self.ended = 0

    def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
        self.begun.append((what, total_bytes))

    def advance(self, num_bytes: int) -> None:
        self.advanced += num_bytes

    def end(self) -> None:
        self.ended += 1


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


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


# --- The same model ---


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


class Compared:
    """A repacked model's logits, against those of the source in NumPy."""

    def __init__(self, folder: Path, scheme: Scheme, kind: GGMLQuantizationType) -> None:
        write_tokenizer(folder / "tokenizer.json")
        self.source = write_model(folder / "source.gguf", Shape(scheme), kind)
        repack(self.source, folder / "tokenizer.json", folder / "model.gguf", Progress())
        self.tokens = np.random.default_rng(3).integers(0, 400, 40).tolist()
        self.ends = [1, 2, 9, 17, 40]
        self.logits = llama_logits(folder / "model.gguf", self.tokens, self.ends)

    def distance(
        self,
        *,
        rotated: int = 32,
        head_size: int = 64,
        activation: Callable[[NDArray[np.float32]], NDArray[np.float32]] = gelu_tanh,
    ) -> float:
        """Return how far the logits lie apart at the worst place, in their own root mean square."""
        phi = Phi(self.source, rotated=rotated, head_size=head_size, activation=activation)
        right = phi.logits(self.tokens)[[end - 1 for end in self.ends]]
        errors = np.sqrt(((self.logits - right) ** 2).mean(-1) / right.var(-1))
        return float(errors.max())


@pytest.mark.parametrize("scheme", ["layers", "transformer"])
@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.name)
def test_the_repacked_model_computes_what_the_architecture_says(
    tmp_path: Path, scheme: Scheme, kind: GGMLQuantizationType
) -> None:
    compared = Compared(tmp_path, scheme, kind)
    assert compared.distance() < BOUNDS[kind]
    # It tells a model apart that rotates more or less of its heads, or has others.
    assert compared.distance(rotated=64) > 10 * BOUNDS[kind]
    assert compared.distance(rotated=16) > 10 * BOUNDS[kind]
    assert compared.distance(head_size=32, rotated=32) > 10 * BOUNDS[kind]


def test_the_comparison_tells_activations_apart(tmp_path: Path) -> None:
    compared = Compared(tmp_path, "layers", F32)
    assert compared.distance(activation=lambda x: np.maximum(x, 0)) > 10 * BOUNDS[F32]
    # Even GELU by the logistic function; erf and tanh differ less than a table of 16 bits can tell.
    assert compared.distance(activation=lambda x: x / (1 + np.exp(-1.702 * x))) > 2 * BOUNDS[F32]


@pytest.mark.parametrize("kind", BOUNDS, ids=lambda kind: kind.name)
def test_no_weight_is_touched(tmp_path: Path, tokenizer: Path, kind: GGMLQuantizationType) -> None:
    source = write_model(tmp_path / "source.gguf", Shape(), kind, extra={"a.inv_freq": (16,)})
    repack(source, tokenizer, tmp_path / "model.gguf", Progress())
    before, after = (
        {t.name: (int(t.tensor_type), t.shape.tolist(), t.data.tobytes()) for t in reader.tensors}
        for reader in (GGUFReader(source), GGUFReader(tmp_path / "model.gguf"))
    )
    assert "a.inv_freq" in before
    assert len(after) == len(before) - 1
    assert after["blk.1.ffn_up.weight"] == before["layers.2.mlp.fc1.weight"]
    assert kind.name in Model(str(tmp_path / "model.gguf")).description
    assert after["output.bias"] == before["layers.3.linear.bias"]
    assert sorted(map(repr, after.values())) == sorted(
        repr(value) for name, value in before.items() if name != "a.inv_freq"
    )


def test_a_large_model_takes_little_memory(tmp_path: Path, tokenizer: Path) -> None:
    large = Shape(width=512, feed_forward=4096, layers=3)
    source = write_model(tmp_path / "source.gguf", large, GGMLQuantizationType.F32)
    assert source.stat().st_size > 50_000_000
    tracemalloc.start()
    try:
        repack(source, tokenizer, tmp_path / "model.gguf", Progress())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


# --- The same vocabulary ---


def test_the_vocabulary_is_the_tokenizers_with_padding(pair: tuple[Model, Tokenizer]) -> None:
    model, tokenizer = pair
    known = tokenizer.get_vocab_size()
    assert known < SMALL.rows == model.vocab_size
    texts = [model._text(token) for token in range(SMALL.rows)]
    assert texts[:known] == [tokenizer.id_to_token(token) for token in range(known)]
    assert texts[known:] == [f"[PAD{token}]" for token in range(known, SMALL.rows)]
    for token in range(known, SMALL.rows):
        assert model.tokenize(f"[PAD{token}]", special=True) != [token]


def test_one_token_begins_and_ends_a_text_and_none_is_put_first(
    pair: tuple[Model, Tokenizer],
) -> None:
    model, tokenizer = pair
    (end,) = tokenizer.encode("<|endoftext|>").ids
    assert model.bos_token == model.eos_token == "<|endoftext|>"
    assert model.is_end_of_generation(end)
    assert model.end_tokens == (end,)
    assert [token.id for token in model.control_tokens()] == [end]
    assert model.leading_token is None
    assert model.tokenize("<|endoftext|>", special=True) == [end]
    assert end not in model.tokenize("<|endoftext|>", special=False)


TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "Where do puffins live?",
    " leading and trailing ",
    "a  b   c    d" + " " * 40 + "e" + " " * 7,
    "def f(x):\n    if x:\n\t\treturn 1\n\t\t\t\t\t\t\t\t\t\t\tpass  \n\n",
    "\r\n\r\n\t \t ",
    "It's they've I'm we'll he'd CAN'T",
    "1994 3.14159 1,000,000 ½ ² ٣",
    "naïve café Ünïcödé straße",
    "東京で会いましょう。здравствуй мир! שלום مرحبا",
    "👩‍👩‍👧‍👦 🇫🇷 ☃️ e\u0301 \u200b \u00a0 \u3000",
    "!!!??? --- *** <<< [PAD450] <|im_end|>",
    "\x00\x01\x7f",
]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_text_has_the_tokens_that_the_tokenizer_gives_it(
    pair: tuple[Model, Tokenizer], text: str
) -> None:
    model, tokenizer = pair
    tokens = model.tokenize(text, special=True)
    assert tokens == tokenizer.encode(text).ids
    assert b"".join(map(model.piece, tokens)).decode() == text


@given(
    text=st.text(st.sampled_from("ab '\t\n.,1é京🎈") | st.characters(codec="utf-8"), max_size=40)
)
def test_any_text_has_the_tokens_that_the_tokenizer_gives_it(
    pair: tuple[Model, Tokenizer], text: str
) -> None:
    model, tokenizer = pair
    tokens = model.tokenize(text, special=True)
    assert tokens == tokenizer.encode(text).ids
    assert b"".join(map(model.piece, tokens)).decode() == text


# --- Once, and whole ---


def test_the_result_is_kept_and_found_again(cache: Path, source: Path, tokenizer: Path) -> None:
    assert find_repacked(source, tokenizer) is None
    first = Recorder()
    path = repacked(source, tokenizer, first)
    size = sum(tensor.n_bytes for tensor in GGUFReader(path).tensors)
    assert first.begun == [("repacking model-puffin.gguf", size)]
    assert first.advanced == size
    assert first.ended == 1
    assert path.parent == cache / "repacked"
    assert path.name.startswith("model-puffin-")
    second = Recorder()
    assert repacked(source, tokenizer, second) == find_repacked(source, tokenizer) == path
    assert second.begun == []
    assert files(cache) <= {path.name, path.name + ".lock"}


def test_it_is_made_again_when_a_source_has_changed(
    cache: Path, source: Path, tokenizer: Path, tmp_path: Path
) -> None:
    path = repacked(source, tokenizer, Progress())
    before = path.read_bytes()

    write_model(source, SMALL, Q8_0)
    assert find_repacked(source, tokenizer) is None
    assert repacked(source, tokenizer, Progress()) == path
    assert path.read_bytes() != before

    os.utime(source, ns=(0, 0))  # as when the same name holds another file of that size
    assert find_repacked(source, tokenizer) is None
    assert repacked(source, tokenizer, Progress()) == path

    write_tokenizer(tokenizer, pairs=False)
    assert find_repacked(source, tokenizer) is None
    assert repacked(source, tokenizer, Progress()) == path
    assert len([name for name in files(cache) if name.endswith(".gguf")]) == 1


@pytest.mark.parametrize("damage", [b"", b"GGUF", None])
def test_it_is_made_again_when_it_is_not_whole(
    cache: Path, source: Path, tokenizer: Path, damage: bytes | None
) -> None:
    path = repacked(source, tokenizer, Progress())
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage is None else damage)
    assert find_repacked(source, tokenizer) is None
    assert repacked(source, tokenizer, Progress()).read_bytes() == whole


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


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = list[str]()
    for line in process.stdout:
        lines.append(line.strip())
        if word in line:
            return lines
    raise AssertionError(f"the process ended after {lines}")


def test_a_process_that_is_killed_leaves_nothing_that_harms(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    with start(source, tokenizer, "pause") as process:
        read_until(process, "paused")
        process.kill()
    assert [name for name in files(cache) if name.endswith(".part")]
    assert find_repacked(source, tokenizer) is None
    path = repacked(source, tokenizer, Progress())  # its lock has ended with it
    assert files(cache) <= {path.name, path.name + ".lock"}


def test_of_several_processes_one_writes_and_the_others_wait(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    with start(source, tokenizer, "pause") as first:
        read_until(first, "paused")
        others = [start(source, tokenizer) for _ in range(3)]
        for other in others:
            assert "waiting for it" in read_until(other, "note")[-1]
        outputs = [first.communicate("go on\n")[0]]
    outputs += [other.communicate(timeout=120)[0] for other in others]
    assert [output.count("repacking") for output in outputs] == [0, 0, 0, 0]  # but by the first
    path = find_repacked(source, tokenizer)
    assert path is not None
    assert {output.split()[-1] for output in outputs} == {str(path)}


class Interrupted(Progress):
    def advance(self, num_bytes: int) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_one_leaves_nothing(cache: Path, source: Path, tokenizer: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        repacked(source, tokenizer, Interrupted())
    assert not [name for name in files(cache) if not name.endswith(".lock")]
    assert repacked(source, tokenizer, Progress()).is_file()


def test_an_older_result_stays_until_the_new_one_is_whole(
    tmp_path: Path, source: Path, tokenizer: Path
) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        repack(source, tokenizer, target, Interrupted())
    assert target.read_bytes() == b"older"
    repack(source, tokenizer, target, Progress())
    assert target.read_bytes()[:4] == b"GGUF"


# --- When it cannot be done ---


def test_a_disk_without_room_is_found_before_the_first_byte(
    cache: Path, source: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candle, "free_disk", lambda _: 100_000)
    with pytest.raises(NoRoomError, match=r"needs \d+ kB and .* has 100 kB free: make room"):
        repacked(source, tokenizer, Progress())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_disk_that_becomes_full_leaves_nothing(
    cache: Path, source: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoRoomError, match=r"the disk of .* is full"):
        repacked(source, tokenizer, Progress())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_write_that_the_system_refuses_leaves_nothing(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, old[1]))
    try:
        with pytest.raises(ModelError, match=r"cannot make .*: File too large"):
            repacked(source, tokenizer, Progress())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_cache_that_cannot_be_made_is_told(
    source: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LLMSTREAM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot make .*: Not a directory"):
        repacked(source, tokenizer, Progress())


@pytest.mark.parametrize("cut", [1, 100_000])
def test_a_source_that_ends_early_is_refused(
    cache: Path, source: Path, tokenizer: Path, cut: int
) -> None:
    content = source.read_bytes()
    source.write_bytes(content[: -64 - cut])
    with pytest.raises(ModelError, match=r"is incomplete: \d+ bytes are missing; fetch it again"):
        repacked(source, tokenizer, Progress())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_source_that_becomes_shorter_meanwhile_is_told(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    class Cutting(Progress):
        def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
            os.truncate(source, source.stat().st_size // 2)

    with pytest.raises(ModelError, match=f"{source.name} became shorter while it was read"):
        repacked(source, tokenizer, Cutting())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_source_that_changes_meanwhile_is_told(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    class Touching(Progress):
        def begin(self, what: str, total_bytes: int, done_bytes: int = 0) -> None:
            os.utime(source, ns=(0, 0))

    with pytest.raises(ModelError, match=f"{source.name} has changed while it was repacked"):
        repacked(source, tokenizer, Touching())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_a_link_to_a_model_is_the_model(
    cache: Path, source: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """As in the Hub's cache, where files are links to what has their checksum for a name."""
    blob = source.rename(tmp_path / "0123abcd")
    source.symlink_to(blob)
    path = repacked(source, tokenizer, Progress())
    assert path.name.startswith("model-puffin-")
    assert repacked(source, tokenizer, Interrupted()) == path


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(
    cache: Path, tmp_path: Path, tokenizer: Path
) -> None:
    source = write_model(tmp_path / "small.gguf", Shape(feed_forward=256, layers=1, rows=256))
    with pytest.raises(ModelError, match="has 439 tokens, and the model 256"):
        repacked(source, tokenizer, Progress())
    assert not [name for name in files(cache) if not name.endswith(".lock")]


def test_what_is_not_candles_is_refused(cache: Path, model_path: Path, tokenizer: Path) -> None:
    with pytest.raises(ModelError, match="is no Phi model as candle quantized it"):
        repacked(model_path, tokenizer, Progress())


def test_missing_files_are_told(tmp_path: Path, cache: Path, source: Path, tokenizer: Path) -> None:
    for files_given in ((tmp_path / "none", tokenizer), (source, tmp_path / "none")):
        with pytest.raises(ModelNotFoundError, match="there is no file"):
            repacked(*files_given, Progress())


def test_norms_in_a_type_that_llama_cpp_cannot_use_are_refused(
    cache: Path, source: Path, tokenizer: Path
) -> None:
    content = bytearray(source.read_bytes())
    name = b"layers.1.ln.weight"
    at = content.index(name) + len(name) + 4 + 8  # its dimensions, then its one size
    content[at : at + 4] = (24).to_bytes(4, "little")  # I8: fits the room of 32 bits
    source.write_bytes(content)
    with pytest.raises(ModelError, match=r"attn_norm.weight' must not be written as I8"):
        repacked(source, tokenizer, Progress())


def test_nothing_but_the_source_decides_over_the_result(
    tmp_path: Path, source: Path, tokenizer: Path
) -> None:
    digests = set[str]()
    for name in ("a.gguf", "b.gguf"):
        repack(source, tokenizer, tmp_path / name, Progress())
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
