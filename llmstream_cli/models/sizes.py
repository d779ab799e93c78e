"""Sizes: how people write them, and whether a model fits."""

import re
from typing import Literal, TypeAlias

from llmstream_cli.errors import InvalidValueError

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_RESERVE = 10  # one part in so many of the memory is left to others

Fit: TypeAlias = Literal["yes", "tight", "no"]  # tight: only if other programs make room


def fit(needed: int, total: int, available: int) -> Fit:
    """Compare what a model needs with the machine's memory, in bytes; a tenth stays free."""
    reserve = total // _RESERVE
    if needed <= available - reserve:
        return "yes"
    return "tight" if needed <= total - reserve else "no"


def human_size(num_bytes: float) -> str:
    """Write a number of bytes in decimal units, as the Hub and shops for disks do."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:  # noqa: PLR2004 -- where three digits would round to 1000
            break
        value, unit = value / 1000, larger
    digits = 0 if unit in {"B", "kB"} or value >= 99.95 else 1  # noqa: PLR2004 -- three digits
    return f"{value:.{digits}f} {unit}"


def parse_size(text: str) -> int:
    """Read a number of bytes: `8G` and `8GB` are 8·10⁹, `8GiB` is 8·2³⁰, `8` is 8.

    Raises:
        InvalidValueError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidValueError(f"{text[:50]!r} is no size; one reads 8G, 512M, or 8GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
