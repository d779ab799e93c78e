"""What a preset is: a model with a name of its own, and what is to be known of it beforehand.

Named tuples, as every start of a command makes these classes, and dataclasses take seven times as
long to make.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llmstream_cli.models.reference import HubModel

# Tokens that one conversation gets room for unless --ctx-size says otherwise.
DEFAULT_CTX_SIZE = 8192

# The program itself, its libraries, and llama.cpp's buffers for a step: 67 MB measured with a
# vocabulary of 49,000 tokens; they grow with the vocabulary and the width of the model.
OVERHEAD_BYTES = 200_000_000

KV_ELEMENT_BYTES = 2  # the KV cache holds half-precision numbers

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Package(NamedTuple):
    """An installed Python package that carries a model's file."""

    name: str
    file: str
    extra: str  # of this distribution, which installs the package

    def locate(self) -> Path | None:
        """Return the file without importing its package; None if that is not installed."""
        spec = importlib.util.find_spec(self.name)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None


class Preset(NamedTuple):
    """A model that `--features NAME` chooses: one of ours, or of the user's own.

    0 and "" are unknown; a preset of the user's own may have no more than a name and a source.
    """

    name: str
    source: HubModel | Path  # a file on the Hub, or here
    title: str = ""  # what its authors call it
    summary: str = ""
    licence: str = ""  # of the weights: its SPDX identifier, or what the Hub calls it
    num_parameters: int = 0  # to two digits, embeddings among them
    num_active: int = 0  # of those, what the answer's next token is computed with; 0 is all
    size_bytes: int = 0  # of the file at `source`
    sha256: str = ""  # the first digits of that file's
    ctx_size: int | None = None  # the most that the model was made for, or what the user wants
    kv_bytes: int = 0  # memory for the keys and values of a token of the context
    package: Package | None = None  # has a file of the model, too
    tokenizer: str | None = None  # of a file in candle's layout; see `ModelChoice`
    chat_format: str | None = None  # the prompt format's name; None takes the template in the file
    sampling: Mapping[str, Any] = _NOTHING  # what suits it, by the names of the parameters
    thinking: Mapping[str, Any] = _NOTHING  # what differs while it thinks before it answers
    thinks: bool = False  # whether it does so unasked

    @property
    def repo(self) -> str | None:
        """The repository on the Hub, `user/name`."""
        return self.source.repo if isinstance(self.source, HubModel) else None

    @property
    def file(self) -> str | None:
        """The path of the file in the repository."""
        return self.source.file if isinstance(self.source, HubModel) else None

    @property
    def is_candle(self) -> bool:
        """Whether it is known to be in candle's layout, and has to be repacked."""
        return self.tokenizer is not None

    @property
    def disk_bytes(self) -> int:
        """What the model takes on the disk; a file in candle's layout stays beside its copy."""
        return self.size_bytes * (2 if self.is_candle else 1)

    @property
    def read_bytes(self) -> int:
        """What is read of the weights for each token of an answer."""
        active = self.num_active or self.num_parameters
        return self.size_bytes * active // (self.num_parameters or 1)

    def packaged_file(self) -> Path | None:
        """Return the file of the model that an installed package carries, if there is one."""
        return self.package.locate() if self.package is not None else None

    def memory_bytes(self, ctx_size: int = DEFAULT_CTX_SIZE) -> int:
        """Estimate the memory that a conversation takes: weights, KV cache, and the program."""
        tokens = min(self.ctx_size or ctx_size, ctx_size)
        return self.size_bytes + tokens * self.kv_bytes + OVERHEAD_BYTES

    def advice(self, thinking: bool | None = None) -> Mapping[str, Any]:
        """Return the sampling that suits the model, by the names of the sampling parameters.

        Args:
            thinking: whether it shall think before it answers; None is as it does unasked.
        """
        thinks = self.thinks if thinking is None else thinking
        return {**self.sampling, **self.thinking} if thinks else self.sampling
