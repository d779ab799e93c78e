"""What a preset is: a model with a name of its own, and what is to be known of it beforehand.

Named tuples, as every start of a command makes these classes, and dataclasses take seven times as
long to make.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

# Tokens that one conversation gets room for unless --ctx-size says otherwise.
DEFAULT_CTX_SIZE = 8192

# The program itself, its libraries, and llama.cpp's buffers for a step: 67 MB measured with a
# vocabulary of 49,000 tokens; they grow with the vocabulary and the width of the model.
OVERHEAD_BYTES = 200_000_000

KV_ELEMENT_BYTES = 2  # the KV cache holds half-precision numbers


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository of the Hub.

    Attributes:
        repo: the repository, as `user/name`.
        file: the GGUF file's path in it.
        revision: a commit, tag or branch; None is the newest.
    """

    repo: str
    file: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class CandleFile(HubFile):
    """A GGUF file in candle's layout: weights alone, that have to be repacked for llama.cpp.

    Attributes:
        tokenizer: the path of its `tokenizer.json`, in the same repository.
    """

    tokenizer: str = field(kw_only=True)


class PackagedFile(NamedTuple):
    """A file that an installed Python package carries.

    Attributes:
        package: the package in whose folder it is.
        file: its name.
        extra: the extra of this distribution that installs the package.
    """

    package: str
    file: str
    extra: str

    def locate(self) -> Path | None:
        """Return the file without importing its package; None if that is not installed."""
        spec = importlib.util.find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.is_file():
                return path
        return None


class KVShape(NamedTuple):
    """What a model keeps of each token of its context.

    Attributes:
        layers: those with attention to the whole context; where some see a window only, all of
            them, which is the most that it can be.
        kv_heads: heads of keys, and as many of values, in each of them.
        head_size: numbers in a head.
    """

    layers: int
    kv_heads: int
    head_size: int

    @property
    def bytes_per_token(self) -> int:
        """Memory for the keys and values of a token."""
        return 2 * self.layers * self.kv_heads * self.head_size * KV_ELEMENT_BYTES


class Preset(NamedTuple):
    """A model that `--features NAME` chooses.

    Attributes:
        name: what the user types.
        title: what its authors call it.
        summary: a few words for a person who chooses.
        licence: of the weights: its SPDX identifier, or what the Hub calls it.
        num_parameters: weights, embeddings among them, to three digits.
        size_bytes: of the file at `source`, to three digits.
        source: where the file is downloaded from.
        ctx_size: the most tokens of context that the model was made for.
        kv: what the context takes.
        quality: its rank among the presets by general reputation; the best has the highest.
        packaged: the package that carries a file of the model instead, if there is one.
        chat_format: the prompt format's name; None takes the template in the file.
        sampling: what its authors advise, by the names of the sampling parameters.
    """

    name: str
    title: str
    summary: str
    licence: str
    num_parameters: int
    size_bytes: int
    source: HubFile | CandleFile
    ctx_size: int
    kv: KVShape
    quality: int
    packaged: PackagedFile | None = None
    chat_format: str | None = None
    sampling: Mapping[str, float] = MappingProxyType({})

    def packaged_file(self) -> Path | None:
        """Return the file of the model that an installed package carries, if there is one."""
        return self.packaged.locate() if self.packaged is not None else None

    @property
    def disk_bytes(self) -> int:
        """What the model takes on the disk; a file in candle's layout stays beside its copy."""
        return self.size_bytes * (2 if isinstance(self.source, CandleFile) else 1)

    def memory_bytes(self, ctx_size: int | None = None) -> int:
        """Estimate the memory that one conversation takes: weights, KV cache, and the program.

        Args:
            ctx_size: tokens of the conversation; None is what it may have by default.
        """
        tokens = min(self.ctx_size, ctx_size or DEFAULT_CTX_SIZE)
        return self.size_bytes + tokens * self.kv.bytes_per_token + OVERHEAD_BYTES
