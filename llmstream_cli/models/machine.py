"""What this machine has: memory and room on the disk."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory for programs, in bytes.

    Attributes:
        total: what there is, or what a container may use if that is less.
        available: what can be taken without pushing others out.
    """

    total: int
    available: int


def memory() -> Memory:
    """Ask the system, and on Linux the control groups that this process is in."""
    raise NotImplementedError


def free_disk(folder: Path) -> int:
    """Return the bytes that a user may still write where the folder is, or will be."""
    raise NotImplementedError
