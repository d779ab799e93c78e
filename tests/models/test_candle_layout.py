"""From candle's tensors to llama.cpp's, by names and shapes alone."""

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


def layout(tensors: dict[str, tuple[int, ...]]) -> tuple[dict[str, str], dict[str, object]]:
    """Return the new names by the old ones, and the metadata."""
    source = header(tensors)
    renamed = rename_tensors(source)
    return {tensor.name: name for name, tensor in renamed.items()}, {
        **architecture(source, renamed)
    }


def test_puffin_s_tensors_and_metadata() -> None:
    names, metadata = layout(dict(PUFFIN.tensors()))
    assert len(names) == 245
    assert metadata == {
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
    assert (
        names.items()
        >= {
            "layers.0.wte.weight": "token_embd.weight",
            "layers.1.ln.bias": "blk.0.attn_norm.bias",
            "layers.24.mixer.Wqkv.weight": "blk.23.attn_qkv.weight",
            "layers.3.mixer.out_proj.weight": "blk.2.attn_output.weight",
            "layers.3.mlp.fc1.weight": "blk.2.ffn_up.weight",
            "layers.3.mlp.fc2.bias": "blk.2.ffn_down.bias",
            "layers.25.ln.weight": "output_norm.weight",
            "layers.25.linear.bias": "output.bias",
        }.items()
    )


def test_phi_2_has_wider_heads_and_names_of_its_own() -> None:
    names, metadata = layout(dict(PHI_2.tensors()))
    assert metadata["phi2.attention.head_count"] == 32
    assert metadata["phi2.block_count"] == 32
    assert names["transformer.embd.wte.weight"] == "token_embd.weight"
    assert names["transformer.h.31.mlp.fc2.weight"] == "blk.31.ffn_down.weight"
    assert names["lm_head.ln.bias"] == "output_norm.bias"
    assert names["lm_head.linear.weight"] == "output.weight"


def test_buffers_are_dropped_and_tell_how_much_is_rotated() -> None:
    buffer = "layers.1.mixer.rotary_emb.inv_freq"
    names, metadata = layout({**dict(Shape().tensors()), buffer: (8,)})
    assert metadata["phi2.rope.dimension_count"] == 16
    assert buffer not in names


def test_what_is_not_candles_is_told_apart() -> None:
    good = header(dict(Shape().tensors()))
    assert is_candle(good)
    assert not is_candle(header({"token_embd.weight": (4, 4)}))
    named = GGUFHeader(2, {"general.architecture": "phi2"}, {}, good.tensors, 32, 0, 0)
    assert not is_candle(named)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layers.0.wte.weight": None}, "no Phi model as candle quantized it"),
        (dict.fromkeys(f"layers.{n}.mixer.Wqkv.weight" for n in (1, 2)), "has no layers"),
        ({"layers.2.mlp.fc1.bias": None}, "lacks the tensor layers.2.mlp.fc1.bias"),
        ({"layers.2.mixer.Wqkv.weight": None}, "has the unknown tensor"),
        ({"layers.1.moe.weight": (4,)}, "has the unknown tensor 'layers.1.moe.weight'"),
        ({"layers.0.wte.weight": (256,)}, "layers.0.wte.weight is 256 and no matrix"),
        ({"layers.0.wte.weight": (512, 512)}, "is .* and not"),
        ({"layers.2.mixer.Wqkv.weight": (768, 256)}, "is 768 by 256 and not 256 by 768"),
        ({"layers.3.linear.bias": (511,)}, "layers.3.linear.bias is 511 and not 512"),
        ({"a.inv_freq": (40,)}, "is 256 wide and rotates 80, which fits no heads of 64 numbers"),
        (dict(Shape(width=96).tensors()), "is 96 wide and rotates 32, which fits no heads"),
    ],
)
def test_a_file_with_other_tensors_is_refused(
    changes: dict[str, tuple[int, ...] | None], complaint: str
) -> None:
    tensors = {**dict(Shape().tensors()), **changes}
    with pytest.raises(ModelError, match=complaint):
        layout({name: shape for name, shape in tensors.items() if shape is not None})
