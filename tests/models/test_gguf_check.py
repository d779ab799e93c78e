"""What is refused before llama.cpp sees it, and what it survives of the rest."""

import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGUFReader

from llmstream_cli.errors import ModelError, ModelNotFoundError
from llmstream_cli.models.gguf import read_header
from llmstream_cli.models.gguf_check import check_gguf
from tests import gguf_files
from tests.candle_files import write_model
from tests.models.gguf_mutants import Raw, mutants, strings, text

WRITERS = {
    write.__name__: write
    for write in (
        gguf_files.write_llama,
        gguf_files.write_phi2,
        gguf_files.write_gemma3,
        gguf_files.write_mamba,
        gguf_files.write_lfm2,
        gguf_files.write_bert,
        gguf_files.write_nomic_bert,
    )
}
BOOL, STRING, ARRAY, UINT16, UINT32, FLOAT32 = 7, 8, 9, 2, 4, 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def raw(path: Path) -> Raw:
    """A good model, in pieces."""
    return Raw.read(gguf_files.write_phi2(path))


def put(raw: Raw, key: str, kind: int, value: bytes) -> None:
    raw.keys = [entry for entry in raw.keys if entry[0] != key.encode()]
    raw.keys.append((key.encode(), kind, value))


def number(value: int) -> bytes:
    return struct.pack("<I", value)


def check(path: Path, raw: Raw) -> None:
    path.write_bytes(raw.content())
    check_gguf(path)


class Loader:
    """A process that loads models, and is started again when one of them kills it."""

    def __enter__(self) -> "Loader":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.models.load_gguf"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def load(self, path: Path) -> str | None:
        """Load a model; None if that killed the process, or did not end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], 120)
        line = self._process.stdout.readline() if readable else ""
        if line:
            return line.rstrip()
        self._process.kill()
        self._process.communicate()
        self._start()
        return None


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    with Loader() as loader:
        yield loader


@pytest.mark.parametrize("name", WRITERS)
def test_a_small_model_passes(path: Path, name: str) -> None:
    check_gguf(WRITERS[name](path))
    check_gguf(path, read_header(path))  # without its tokens


def test_a_candle_file_is_no_model_for_llama_cpp(path: Path) -> None:
    with pytest.raises(ModelError, match="does not say which architecture"):
        check_gguf(write_model(path))


def test_a_file_that_ends_early_is_told_from_one_that_is_whole(path: Path, raw: Raw) -> None:
    content = raw.content()
    reader = GGUFReader(path)
    last = reader.tensors[-1]
    end = int(last.data_offset + last.n_bytes)
    path.write_bytes(content[:end])  # the padding after the last tensor may be missing
    check_gguf(path)
    for size in (len(raw.header()) + 40, end // 2, end - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelError, match=f"it has {size} of {end} bytes; fetch it again"):
            check_gguf(path)


@pytest.mark.parametrize("offset", [0, 1 << 40, (1 << 64) - 32])
def test_weights_must_lie_one_after_the_other(path: Path, raw: Raw, offset: int) -> None:
    name, shape, kind, _ = raw.tensors[2]
    raw.tensors[2] = name, shape, kind, offset
    with pytest.raises(ModelError, match=f"begins at byte {offset} of the data, and not at"):
        check(path, raw)


def test_weights_that_cannot_be_mapped_are_refused(path: Path) -> None:
    raw = Raw.read(gguf_files.write_llama(path))
    put(raw, "general.alignment", UINT32, number(1))
    note = next(n for n in range(32) if (len(raw.header()) + 36 + n) % 32 == 16)
    put(raw, "general.note", STRING, text(b"x" * note))
    path.write_bytes(raw.header() + raw.data)
    with pytest.raises(ModelError, match="no multiple of 32"):
        check_gguf(path)


@pytest.mark.parametrize(
    ("key", "kind", "value", "complaint"),
    [
        ("general.architecture", UINT32, number(1), "does not say which architecture"),
        ("general.architecture", STRING, text(b""), "does not say which architecture"),
        ("phi2.block_count", FLOAT32, number(2), "does not say how many layers"),
        ("phi2.block_count", UINT32, number(0), "claims to have 0 layers"),
        ("phi2.block_count", UINT32, number(513), "claims to have 513 layers"),
        ("phi2.nextn_predict_layers", UINT32, number(3), "more than its 2 layers"),
        ("phi2.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", -1), "is -1.0"),
        ("phi2.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", 1e999), "is inf"),
        ("phi2.expert_count", UINT32, number(1025), "claims to have 1025 experts"),
        ("phi2.expert_count", UINT32, number(4), "claims to use 0 of 4 experts"),
        ("phi2.expert_used_count", UINT32, number(2), "claims to use 2 of 0 experts"),
        ("phi2.expert_group_count", UINT32, number(1), "0 experts in 1 groups"),
        ("phi2.rope.scaling.type", STRING, text(b"x\n"), r"unknown rope scaling 'x\\n'"),
        ("phi2.rope.dimension_count", UINT32, number(0), "wants 0 of the 16 numbers of a head"),
        ("phi2.rope.dimension_count", UINT32, number(7), "wants 7 of the 16 numbers of a head"),
        ("phi2.rope.dimension_count", UINT32, number(18), "wants 18 of the 16 numbers of a head"),
        ("phi2.attention.key_length", UINT32, number(32), "keys of 32 numbers, and values of 16"),
        ("tokenizer.ggml.eos_token_id", UINT32, number(346), "is 346, and there are 346 tokens"),
        ("tokenizer.ggml.model", STRING, text(b"bert"), "it compares texts"),
        ("tokenizer.ggml.model", STRING, text(b"llama"), "no token for the byte 0x00"),
        (
            "tokenizer.ggml.token_type",
            ARRAY,
            struct.pack("<IQ2i", 5, 2, 1, 1),
            "346 tokens, and tokenizer.ggml.token_type for 2",
        ),
    ],
)
def test_a_value_that_llama_cpp_would_not_survive_is_refused(
    path: Path, raw: Raw, key: str, kind: int, value: bytes, complaint: str
) -> None:
    put(raw, key, kind, value)
    with pytest.raises(ModelError, match=complaint):
        check(path, raw)


def test_experts_that_can_be_used_pass(path: Path, raw: Raw) -> None:
    for key, value in {
        "count": 8,
        "used_count": 2,
        "group_count": 2,
        "group_used_count": 1,
    }.items():
        put(raw, f"phi2.expert_{key}", UINT32, number(value))
    check(path, raw)
    put(raw, "phi2.expert_group_used_count", UINT32, number(2))
    with pytest.raises(ModelError, match="cannot use 2 of 2 groups of 8 experts"):
        check(path, raw)


def test_a_sliding_window_must_have_a_layer(path: Path) -> None:
    raw = Raw.read(gguf_files.write_gemma3(path))
    put(raw, "gemma3.attention.sliding_window_pattern", ARRAY, struct.pack("<IQ2?", BOOL, 2, 0, 0))
    with pytest.raises(ModelError, match="no layer that uses it"):
        check(path, raw)


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ({17: b"x"}, {17: b"99"}, "has the token '99' twice"),
        ({17: b"", 18: b"", 19: b""}, {20: b"99"}, "has the token '99' twice"),  # "" gets a name
        ({17: b"\x80" * 1000}, {17: b"\x80" * 1001}, "its vocabulary is no text"),
    ],
)
def test_a_vocabulary_that_llama_cpp_would_not_survive_or_not_soon_is_refused(
    path: Path, raw: Raw, good: dict[int, bytes], bad: dict[int, bytes], complaint: str
) -> None:
    tokens = {token: b"%d" % token for token in range(346)} | good
    put(raw, "tokenizer.ggml.tokens", ARRAY, strings([*tokens.values()]))
    check(path, raw)
    put(raw, "tokenizer.ggml.tokens", ARRAY, strings([*(tokens | bad).values()]))
    with pytest.raises(ModelError, match=complaint):
        check(path, raw)


@pytest.mark.parametrize("kind", [1, 2, 9, 15, 24, 25, 26, 27, 28, 30])
def test_weights_of_a_type_for_something_else_are_refused(path: Path, raw: Raw, kind: int) -> None:
    name, _, _, offset = raw.tensors[-1]
    raw.tensors[-1] = name, [256], kind, offset
    raw.data += bytes(4096)
    with pytest.raises(ModelError, match=rf"{name.decode()}' must not be written as"):
        check(path, raw)


def split(folder: Path, raw: Raw) -> list[Path]:
    """Write a model in two parts."""
    cut = len(raw.tensors) // 2
    start = raw.tensors[cut][3]
    rest = [(name, shape, kind, offset - start) for name, shape, kind, offset in raw.tensors[cut:]]
    first = Raw(list(raw.keys), raw.tensors[:cut], raw.data[:start])
    second = Raw([], rest, raw.data[start:])
    paths = []
    for index, part in enumerate((first, second)):
        put(part, "split.no", UINT16, struct.pack("<H", index))
        put(part, "split.count", UINT16, struct.pack("<H", 2))
        put(part, "split.tensors.count", 5, number(len(raw.tensors)))
        paths.append(folder / f"model-{index + 1:05}-of-00002.gguf")
        paths[-1].write_bytes(part.content())
    return paths


@pytest.mark.slow
def test_of_a_model_in_parts_all_must_be_there_and_whole(
    tmp_path: Path, raw: Raw, loader: Loader
) -> None:
    first, second = split(tmp_path, raw)
    check_gguf(first)
    assert loader.load(first) == "ok"
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"00002-of-00002.gguf is incomplete"):
        check_gguf(first)
    second.unlink()
    with pytest.raises(ModelNotFoundError, match=r"its part model-00002-of-00002.gguf is missing"):
        check_gguf(first)


def test_a_part_must_be_the_one_that_its_name_says(tmp_path: Path, raw: Raw) -> None:
    first, second = split(tmp_path, raw)
    with pytest.raises(ModelError, match="is part 2 of 2: name the first, which must end in"):
        check_gguf(second)
    part = Raw.read(second)
    put(part, "split.no", UINT32, number(1))  # llama.cpp asserts 16 bits
    second.write_bytes(part.content())
    with pytest.raises(ModelError, match="does not say that it is part 2"):
        check_gguf(first)
    put(part, "split.no", UINT16, struct.pack("<H", 1))
    part.tensors[0] = (raw.tensors[0][0], *part.tensors[0][1:])
    second.write_bytes(part.content())
    with pytest.raises(ModelError, match=r"another part has the tensor 'token_embd.weight' too"):
        check_gguf(first)
    part.tensors[0] = (b"mine", *part.tensors[0][1:])
    part.tensors.pop()
    second.write_bytes(part.content())
    with pytest.raises(ModelError, match="its parts have 24 of 25 tensors"):
        check_gguf(first)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_what_passes_does_not_kill_the_process_that_loads_it(
    path: Path, loader: Loader, name: str
) -> None:
    """Without the check about every sixteenth of these files would."""
    outcomes = {"passed": 0, "refused": 0}
    good = WRITERS[name](path.with_name("good.gguf"))
    for what, content in mutants(good, 80, seed=1):
        path.write_bytes(content)
        try:
            check_gguf(path)
        except ModelError:
            outcomes["refused"] += 1
            continue
        outcomes["passed"] += 1
        assert loader.load(path) is not None, what
    assert min(outcomes.values()) > 10


@pytest.mark.slow
def test_the_process_that_loads_a_bad_file_would_die(path: Path, raw: Raw, loader: Loader) -> None:
    """The test before this one can fail."""
    put(raw, "phi2.block_count", UINT32, number(0))
    path.write_bytes(raw.content())
    assert loader.load(path) is None
    assert loader.load(gguf_files.write_phi2(path)) == "ok"


@pytest.mark.slow
def test_a_text_that_the_vocabulary_cannot_write_is_told(
    path: Path, raw: Raw, loader: Loader
) -> None:
    put(raw, "tokenizer.ggml.model", STRING, text(b"rwkv"))  # which has no token for a space here
    check(path, raw)
    assert "has no token for a part of the text" in str(loader.load(path))
