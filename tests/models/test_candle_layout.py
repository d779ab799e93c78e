"""From candle's tensors to llama.cpp's, by names and shapes alone."""

from dataclasses import replace

import pytest

from llmstream_cli.errors import ModelError
from llmstream_cli.models.candle import architecture, is_candle, rename_tensors
from llmstream_cli.models.gguf import WEIGHT_TYPES, GGUFHeader, Tensor
from tests.candle_files import Shape

PUFFIN = Shape("layers", width=2048, feed_forward=8192, layers=24, rows=50304)
PHI_2 = Shape("transformer", width=2560, feed_forward=10240, layers=32, rows=51200)


def header(tensors: dict[str, tuple[int, ...]]) -> GGUFHeader:
    made = {
        name: Tensor(name, shape, WEIGHT_TYPES[12 if len(shape) > 1 else 0], 0, 4)
        for name, shape in tensors.items()
    }
    return GGUFHeader(2, {}, {}, made, 32, 0, 0)


def names_of(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return the new names by the old ones."""
    return {tensor.name: name for name, tensor in tensors.items()}


def test_puffin_gets_the_metadata_that_its_authors_trained_it_with() -> None:
    source = header(dict(PUFFIN.tensors()))
    tensors = rename_tensors(source)
    assert len(tensors) == 245
    assert architecture(source, tensors) == {
        "general.file_type": 14,
        "phi2.context_length": 2048,
        "phi2.embedding_length": 2048,
        "phi2.block_count": 24,
        "phi2.feed_forward_length": 8192,
        "phi2.attention.head_count": 32,
        "phi2.attention.head_count_kv": 32,
        "phi2.attention.layer_norm_epsilon": 1e-5,
        "phi2.rope.dimension_count": 32,
    }


def test_puffins_tensors_get_llama_cpps_names() -> None:
    names = names_of(rename_tensors(header(dict(PUFFIN.tensors()))))
    assert names["layers.0.wte.weight"] == "token_embd.weight"
    assert names["layers.1.ln.bias"] == "blk.0.attn_norm.bias"
    assert names["layers.24.mixer.Wqkv.weight"] == "blk.23.attn_qkv.weight"
    assert names["layers.3.mixer.out_proj.weight"] == "blk.2.attn_output.weight"
    assert names["layers.3.mlp.fc1.weight"] == "blk.2.ffn_up.weight"
    assert names["layers.3.mlp.fc2.bias"] == "blk.2.ffn_down.bias"
    assert names["layers.25.ln.weight"] == "output_norm.weight"
    assert names["layers.25.linear.bias"] == "output.bias"


def test_phi_2_has_wider_heads_and_names_of_its_own() -> None:
    source = header(dict(PHI_2.tensors()))
    tensors = rename_tensors(source)
    metadata, names = architecture(source, tensors), names_of(tensors)
    assert metadata["phi2.attention.head_count"] == 32
    assert metadata["phi2.block_count"] == 32
    assert names["transformer.embd.wte.weight"] == "token_embd.weight"
    assert names["transformer.h.31.mlp.fc2.weight"] == "blk.31.ffn_down.weight"
    assert names["lm_head.ln.bias"] == "output_norm.bias"
    assert names["lm_head.linear.weight"] == "output.weight"


def test_buffers_are_dropped_and_tell_how_much_is_rotated() -> None:
    tensors = dict(Shape().tensors())
    tensors["layers.1.mixer.rotary_emb.inv_freq"] = (8,)
    source = header(tensors)
    kept = rename_tensors(source)
    assert architecture(source, kept)["phi2.rope.dimension_count"] == 16
    assert "layers.1.mixer.rotary_emb.inv_freq" not in names_of(kept)


def test_what_is_not_candles_is_told_apart() -> None:
    good = header(dict(Shape().tensors()))
    assert is_candle(good)
    assert not is_candle(header({"token_embd.weight": (4, 4)}))
    assert not is_candle(
        replace(
            good,
            metadata={"general.architecture": "phi2"},
            value_types={"general.architecture": 8},
        )
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers.0.wte.weight": None}, "no Phi model as candle quantized it"),
        (dict.fromkeys(f"layers.{n}.mixer.Wqkv.weight" for n in (1, 2)), "has no layers"),
        ({"layers.2.mlp.fc1.bias": None}, "lacks the tensor layers.2.mlp.fc1.bias"),
        ({"layers.2.ln.weight": None}, "lacks the tensor layers.2.ln.weight"),
        ({"layers.2.mixer.Wqkv.weight": None}, "has the unknown tensor"),
        ({"layers.1.moe.weight": (4,)}, "has the unknown tensor 'layers.1.moe.weight'"),
        ({"layers.0.wte.weight": (256,)}, "layers.0.wte.weight is 256 and no matrix"),
        ({"layers.0.wte.weight": (512, 512)}, "is .* and not"),
        ({"layers.2.mixer.Wqkv.weight": (768, 256)}, "is 768 by 256 and not 256 by 768"),
        ({"layers.3.linear.bias": (511,)}, "layers.3.linear.bias is 511 and not 512"),
        ({"a.inv_freq": (40,)}, "is 256 wide and rotates 80, which fits no heads of 64 numbers"),
    ],
)
def test_a_file_with_other_tensors_is_refused(
    changes: dict[str, tuple[int, ...] | None], complaint: str
) -> None:
    tensors = dict(Shape().tensors())
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = shape
    with pytest.raises(ModelError, match=complaint):
        architecture(header(tensors), rename_tensors(header(tensors)))


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    source = header(dict(Shape(width=96).tensors()))
    with pytest.raises(ModelError, match="is 96 wide and rotates 32, which fits no heads"):
        architecture(source, rename_tensors(source))
