"""What to say of a name that nothing goes by."""

from collections.abc import Iterable


def hint(name: str, known: Iterable[str]) -> str:
    """Return the near miss, if there is one, and all names there are: `did you mean sql? …`."""
    import difflib  # for mistakes alone

    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, n=1)
    listed = f"known: {', '.join(names)}"
    return f"did you mean {near[0]}? {listed}" if near else listed
