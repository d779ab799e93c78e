"""Headers that are written, as others read them."""

from pathlib import Path

from gguf import GGUFReader, GGUFValueType

from llmstream_cli.models.gguf_format import WEIGHT_TYPES, Tensor
from llmstream_cli.models.gguf_header import read_header
from llmstream_cli.models.gguf_writer import Writable, encode_header

METADATA: dict[str, Writable] = {
    "general.architecture": "phi2",
    "a.text": "naïve ☃",
    "a.number": 50256,
    "a.ratio": 0.5,
    "a.flag": False,
    "some.texts": ["a", "", "Ġb"],
    "some.numbers": [1, -5, 3],
}
TENSORS = [
    Tensor("token_embd.weight", (4, 2), WEIGHT_TYPES[0], 0, 32),
    Tensor("output_norm.bias", (4,), WEIGHT_TYPES[0], 32, 16),
]


def test_the_reader_of_the_gguf_package_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(encode_header(METADATA, TENSORS) + bytes(48))
    reader = GGUFReader(path)
    contents = {key: field.contents() for key, field in reader.fields.items()}
    assert {key: contents[key] for key in METADATA} == METADATA
    assert reader.fields["a.number"].types == [GGUFValueType.UINT32]
    assert reader.fields["some.numbers"].types == [GGUFValueType.ARRAY, GGUFValueType.INT32]
    assert [(t.name, tuple(t.shape), t.n_bytes) for t in reader.tensors] == [
        (t.name, t.shape, t.size) for t in TENSORS
    ]


def test_our_own_reader_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(encode_header(METADATA, TENSORS) + bytes(48))
    header = read_header(path, strings=("some.texts",))
    assert list(header.tensors.values()) == TENSORS
    assert header.metadata["a.text"] == "naïve ☃"
    assert header.data_offset == header.file_size - 48
