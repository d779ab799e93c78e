"""Numbers as people read them."""

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_DIGITS = 3
_COUNTS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))


def size(num_bytes: float) -> str:
    """Format a number of bytes to three digits: `4.37 GB`, `798 MB`, `12 B`."""
    for factor, unit in _SIZES:
        if num_bytes >= factor * 0.9995:  # below a thousand even when rounded
            return f"{_three_digits(num_bytes / factor)} {unit}"
    return f"{num_bytes:.0f} B"


def count(number: int) -> str:
    """Format a number of parameters to three digits, as models are named: `7.24B`, `135M`."""
    for factor, unit in _COUNTS:
        if number >= factor * 0.9995:
            return _three_digits(number / factor) + unit
    return str(number)


def _three_digits(number: float) -> str:
    whole_digits = len(str(round(number)))
    return f"{number:.{max(0, _DIGITS - whole_digits)}f}"
