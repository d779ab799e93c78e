"""Texts into vectors and tokens: what is asked of an engine, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmstream_cli.errors import InvalidValueError

_POOLINGS = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}  # by llama.cpp's numbers


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to make a vector of each; with a `query`, to score each by how well it answers that.

    Raises:
        InvalidValueError: there is no input, or one has no tokens.
    """

    inputs: tuple[str | tuple[int, ...], ...]  # texts, or token ids that are taken as they are
    truncate: bool = False  # cut inputs that are longer than the context, instead of refusing them
    query: str | None = None  # needs a reranker; the inputs are texts
    keep_alive: float | None = None  # for this and `client` see `api.GenerationRequest`
    client: str = ""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise InvalidValueError("input must have at least one text", "input")
        if () in self.inputs:
            raise InvalidValueError("input has an empty list of tokens", "input")
        if self.keep_alive is not None and not self.keep_alive >= 0:
            raise InvalidValueError("keep_alive must not be negative", "keep_alive")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What was made of the inputs, in their order, or of those next in order."""

    # Little-endian float32 of length 1 together; of a reranker a score, as its model computes it.
    vectors: tuple[bytes, ...]
    num_tokens: int  # of all inputs, with those that were put at their ends
    finished: bool = True  # no more come

    @classmethod
    def joined(cls, parts: "Sequence[Embeddings]") -> "Embeddings":
        return cls(
            tuple(vector for part in parts for vector in part.vectors),
            sum(part.num_tokens for part in parts),
        )


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A text to split into tokens, or token ids to be told what they stand for."""

    content: str | tuple[int, ...]
    add_special: bool = False  # put the tokens at its ends that the model wants there
    parse_special: bool = True  # read `<|im_end|>` and the like as control tokens
    keep_alive: float | None = None  # for this and `client` see `api.GenerationRequest`
    client: str = ""


@dataclass(frozen=True, slots=True)
class Tokens:
    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]  # of each, maybe a part of a character; control tokens by their names


def pooling_of(metadata: Mapping[str, str]) -> str | None:
    """Return what the metadata of a GGUF file says of `api.ModelInfo.pooling`."""
    architecture = metadata.get("general.architecture", "")
    pooling = _POOLINGS.get(metadata.get(f"{architecture}.pooling_type", ""))
    return pooling or ("mean" if is_encoder(architecture) else None)


def is_encoder(architecture: str) -> bool:
    """Tell whether a model of an architecture, by llama.cpp's name, has no KV cache."""
    return "bert" in architecture or architecture == "gemma-embedding"
