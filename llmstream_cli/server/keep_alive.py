"""How long a model stays loaded, in the words of Ollama's clients: `300`, `"5m"`, `"1h30m"`, -1.

Text is read as Go's `time.ParseDuration` does, or as seconds where it is a bare number.
"""

import math
import re

from llmstream_cli.errors import InvalidValueError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{0,9})?"
_BARE = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})({'|'.join(_UNITS)})")
_PARTS = re.compile(rf"(?:{_PART.pattern})+")
_FOREVER = {"forever", "inf"}


def keep_alive_seconds(given: float | str) -> float:
    """Return the seconds; infinite for what is negative, or `forever`.

    Raises:
        InvalidValueError: it is no duration.
    """
    if isinstance(given, str):
        return _parse(given)
    if math.isnan(given):
        raise _refusal(str(given))
    return math.inf if given < 0 else given


def _parse(text: str) -> float:
    words = text.strip().lower().replace("μ", "µ")
    if words in _FOREVER:
        return math.inf
    magnitude = words.removeprefix("-")
    if _BARE.fullmatch(magnitude):
        seconds = float(magnitude)
    elif _PARTS.fullmatch(magnitude):
        seconds = sum(float(part[1]) * _UNITS[part[2]] for part in _PART.finditer(magnitude))
    else:
        raise _refusal(text)
    return math.inf if words != magnitude and seconds else seconds


def _refusal(text: str) -> InvalidValueError:
    return InvalidValueError(
        f"keep_alive is {text[:50]!r}; it must be seconds, or as 5m, 1h30m, or -1 for good",
        "keep_alive",
    )
