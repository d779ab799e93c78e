"""Small Phi models with random weights, as candle writes them, and tokenizers for them.

A file has GGUF's version 2 and no metadata; matrices are quantized, norms and biases are not.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

Scheme = Literal["layers", "transformer"]

_SEED = 20
_LAYERS = 2
_END = "<|endoftext|>"
_CORPUS = [
    "The puffin is a small seabird that breeds in large colonies on coastal cliffs and islands.",
    "Puffins dive for fish; their short wings let them swim, as if they were flying, under water.",
    "In 1994 there were 12 million of them: where are they now? It's said they've moved on.",
    "def main(argument):\n    return argument + 1\n\n    # naïve café, 東京, здравствуй\n",
]


@dataclass(frozen=True)
class Shape:
    """What a model has how many of.

    Attributes:
        rows: how many tokens are embedded, at least as many as the tokenizer knows.
    """

    scheme: Scheme = "layers"
    width: int = 256
    feed_forward: int = 1024
    layers: int = _LAYERS
    rows: int = 512

    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes by candle's names, the inputs of a matrix first."""
        block = {
            "ln": (self.width,),
            "mixer.Wqkv": (self.width, 3 * self.width),
            "mixer.out_proj": (self.width, self.width),
            "mlp.fc1": (self.width, self.feed_forward),
            "mlp.fc2": (self.feed_forward, self.width),
        }
        last = {"ln": (self.width,), "linear": (self.width, self.rows)}
        if self.scheme == "layers":
            names: dict[str, tuple[int, ...]] = {"layers.0.wte.weight": (self.width, self.rows)}
            blocks, end = (
                [f"layers.{i + 1}" for i in range(self.layers)],
                f"layers.{self.layers + 1}",
            )
        else:
            names = {"transformer.embd.wte.weight": (self.width, self.rows)}
            blocks, end = [f"transformer.h.{i}" for i in range(self.layers)], "lm_head"
        modules = {f"{prefix}.{name}": shape for prefix in blocks for name, shape in block.items()}
        modules |= {f"{end}.{name}": shape for name, shape in last.items()}
        for name, shape in modules.items():
            names |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
        return names


def write_model(
    path: Path,
    shape: Shape = Shape(),
    kind: GGMLQuantizationType = GGMLQuantizationType.Q4_K,
    *,
    extra: Mapping[str, tuple[int, ...]] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """Write a model.

    Args:
        kind: of the matrices: `Q4_K`, or one that `gguf` can quantize to.
        extra: further tensors with their shapes, of 32-bit floats.
        without: tensors that are left out.
    """
    random = np.random.default_rng(_SEED)
    infos, data = list[bytes](), list[bytes]()
    offset = 0
    shapes = {name: shape for name, shape in shape.tensors().items() if name not in without}
    for name, dimensions in {**shapes, **(extra or {})}.items():
        own = (
            kind if len(dimensions) == 2 and dimensions[0] % 256 == 0 else GGMLQuantizationType.F32
        )
        content = _weights(name, dimensions, own, random)
        infos.append(
            _string(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        )
        infos.append(struct.pack("<IQ", own, offset))
        data.append(content.ljust(-(-len(content) // 32) * 32, b"\0"))
        offset += len(data[-1])
    header = b"GGUF" + struct.pack("<IQQ", 2, len(data), 0) + b"".join(infos)
    path.write_bytes(header.ljust(-(-len(header) // 32) * 32, b"\0") + b"".join(data))
    return path


def write_tokenizer(path: Path, *, pairs: bool = True) -> Tokenizer:
    """Write a byte-level tokenizer with runs of spaces and tabs among its tokens.

    Args:
        pairs: write a merge as two strings, as newer files do; else as one.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens([_END])
    runs = [" " * count for count in range(31, 1, -1)] + ["\t" * count for count in range(9, 1, -1)]
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in runs])
    text = tokenizer.to_str()
    if not pairs:
        import json

        content = json.loads(text)
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        text = json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return tokenizer


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _weights(
    name: str, dimensions: tuple[int, ...], kind: GGMLQuantizationType, random: np.random.Generator
) -> bytes:
    """Draw weights with which every part of the network has its say in the logits."""
    if name.endswith("inv_freq"):
        return np.ones(dimensions, np.float32).tobytes()
    # Attention that picks single tokens, wide activations, and logits that are far apart.
    gains = {"Wqkv": 2.0, "fc1": 2.0, "fc2": 1.0, "linear": 4.0}
    gain = next((gain for part, gain in gains.items() if part in name), 1.0)
    scale = gain / math.sqrt(dimensions[0]) if len(dimensions) == 2 else 0.1
    if kind == GGMLQuantizationType.Q4_K:
        return _random_q4_k(math.prod(dimensions), scale, random)
    noise = random.standard_normal(dimensions[::-1]).astype(np.float32) * scale
    if name.endswith("ln.weight"):
        noise += 1
    return quantize(noise, kind).tobytes()


def _random_q4_k(count: int, scale: float, random: np.random.Generator) -> bytes:
    """Fill blocks with any bytes, but for the two scales, which make the weights' mean zero.

    A block is `d`, `dmin`, 12 bytes of 6-bit scales and minima, 128 bytes of 4-bit numbers; a
    weight is d * scale * number - dmin * minimum, and so spread over some 255 d.
    """
    blocks: NDArray[np.uint8] = random.integers(0, 256, (count // 256, 144), np.uint8)
    d = scale / 255
    blocks[:, :4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
    return blocks.tobytes()
