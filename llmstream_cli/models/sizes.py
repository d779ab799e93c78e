"""How sizes are written for people."""


def human_size(num_bytes: float) -> str:
    """Write a number of bytes in decimal units, as the Hub and shops for disks do."""
    value, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:  # noqa: PLR2004 -- where three digits would round to 1000
            break
        value, unit = value / 1000, larger
    digits = 0 if unit in {"B", "kB"} or value >= 99.95 else 1  # noqa: PLR2004 -- three digits
    return f"{value:.{digits}f} {unit}"
