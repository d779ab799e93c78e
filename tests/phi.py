"""The forward pass of a Phi model in NumPy, to compare logits with; float32, a prompt at once.

Attention and feed-forward network both read the one normalized state of a layer, and both are
added to it. The first numbers of each head are rotated, in pairs that lie half of them apart.
https://arxiv.org/abs/2309.05463
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Array = NDArray[np.float32]

_EPSILON = 1e-5
_ROPE_BASE = 10_000.0


def gelu_tanh(x: Array) -> Array:
    inner: Array = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + inner)


def gelu_erf(x: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float32])(x / math.sqrt(2))
    gelu: Array = 0.5 * x * (1 + erf)
    return gelu


class Phi:
    """A model from a candle file: its names, read by a GGUF reader that is not ours."""

    def __init__(
        self,
        path: Path,
        *,
        head_size: int = 64,
        rotated: int = 32,
        activation: Callable[[Array], Array] = gelu_tanh,
    ) -> None:
        self._weights = {t.name: _floats(t) for t in GGUFReader(path).tensors}
        self._head_size, self._rotated, self._activation = head_size, rotated, activation
        layered = "layers.0.wte.weight" in self._weights
        self._embedding = "layers.0.wte" if layered else "transformer.embd.wte"
        pattern = "layers.{}.mixer.Wqkv.bias" if layered else "transformer.h.{}.mixer.Wqkv.bias"
        numbers = [n for n in range(100) if pattern.format(n) in self._weights]
        self._blocks = [pattern.format(n).removesuffix(".mixer.Wqkv.bias") for n in numbers]
        self._end = f"layers.{numbers[-1] + 1}" if layered else "lm_head"

    def logits(self, tokens: Sequence[int]) -> Array:
        """Compute the logits after each token of a text: (tokens, vocabulary)."""
        state = self._weights[f"{self._embedding}.weight"][list(tokens)]
        for block in self._blocks:
            normal = self._norm(f"{block}.ln", state)
            state = state + self._attention(block, normal) + self._feed_forward(block, normal)
        return self._linear(f"{self._end}.linear", self._norm(f"{self._end}.ln", state))

    def _linear(self, name: str, x: Array) -> Array:
        y: Array = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return y

    def _norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + _EPSILON)
        y: Array = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return y

    def _feed_forward(self, block: str, x: Array) -> Array:
        return self._linear(
            f"{block}.mlp.fc2", self._activation(self._linear(f"{block}.mlp.fc1", x))
        )

    def _attention(self, block: str, x: Array) -> Array:
        length = len(x)
        split = self._linear(f"{block}.mixer.Wqkv", x).reshape(length, 3, -1, self._head_size)
        queries, keys, values = split.transpose(1, 2, 0, 3)  # each (heads, tokens, head size)
        scores = self._rotate(queries) @ self._rotate(keys).transpose(0, 2, 1)
        scores = scores / math.sqrt(self._head_size)
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        likely = np.exp(scores - scores.max(-1, keepdims=True))
        likely /= likely.sum(-1, keepdims=True)
        mixed = (likely @ values).transpose(1, 0, 2).reshape(length, -1)
        return self._linear(f"{block}.mixer.out_proj", mixed)

    def _rotate(self, x: Array) -> Array:
        half = self._rotated // 2
        frequencies = _ROPE_BASE ** -(np.arange(half) / half)
        angles = np.arange(x.shape[1])[:, None] * frequencies
        sine, cosine = np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)
        left, right, rest = np.split(x, [half, 2 * half], axis=-1)
        turned = [left * cosine - right * sine, left * sine + right * cosine, rest]
        return np.concatenate(turned, axis=-1)


def _floats(tensor: object) -> Array:
    shape = [int(n) for n in tensor.shape][::-1]  # type: ignore[attr-defined]
    floats: Array = dequantize(tensor.data, tensor.tensor_type)  # type: ignore[attr-defined]
    return floats.reshape(shape).astype(np.float32)
