"""What a user means by `--model TEXT`; pure but for the question whether a file is there."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model, or another file, in a repository on the Hugging Face Hub.

    Attributes:
        repo: `user/repo`.
        quant: the quantization wanted, such as `Q4_K_M`, in any case; None takes the default.
        file: a file of the repository by its path there; a split file by any of its parts. It
            wins over `quant`.
        revision: a branch, a tag or a commit; None is `main`.
    """

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine; whether it is there shows when it is opened."""

    path: Path


@dataclass(frozen=True, slots=True)
class PresetName:
    """A name that can only be a preset's; whether there is one is the presets' business."""

    name: str


def parse_reference(text: str) -> HubModel | LocalFile | PresetName:
    """Read what a user calls a model.

    Raises:
        ModelNotFoundError: it cannot be a preset, a file or a model on the Hub.
    """
    raise NotImplementedError
