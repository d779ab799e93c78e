"""How markup looks: the parameters of ECMA-48's SGR sequence for each kind."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

BOLD, DIM, ITALIC, UNDERLINE, STRIKE = "1", "2", "3", "4", "9"


class Run(NamedTuple):
    """Text in one style.

    Attributes:
        text: without control characters.
        style: parameters of SGR, such as `1;36`; empty is plain.
    """

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Palette:
    """The styles that a terminal gets.

    Only the sixteen colours that the user has chosen are used, and never as a background, so that
    all of it can be read on light and on dark.

    Attributes:
        color: whether there is any colour. Without it code keeps its backticks.
        unicode: whether the terminal's encoding has more than ASCII.
    """

    color: bool = True
    unicode: bool = True

    @property
    def bullet(self) -> str:
        """The mark of an item in a list without numbers."""
        return "•" if self.unicode else "*"

    @property
    def bar(self) -> str:
        """The line beside a quotation, and between cells that are not in columns."""
        return "│" if self.unicode else "|"

    @property
    def rule(self) -> str:
        """A piece of a line from left to right."""
        return "─" if self.unicode else "-"

    @property
    def code(self) -> str:
        """Code inside a line."""
        return "36" if self.color else ""

    def token(self, kind: str) -> str:
        """Return the style of a token of code.

        Args:
            kind: as Pygments names it, `Keyword.Constant`; the closest known ancestor counts.
        """
        if not self.color:
            return ""
        return next((_TOKENS[name] for name in _ancestors(kind) if name in _TOKENS), "")


def combined(outer: str, inner: str) -> str:
    """Return the style of text that has two."""
    return ";".join(filter(None, (outer, inner)))


def _ancestors(kind: str) -> Iterator[str]:
    """Yield a name, then those above it."""
    while kind:
        yield kind
        kind = kind.rpartition(".")[0]


_TOKENS = {
    "Comment": DIM,
    "Comment.Preproc": "35",
    "Keyword": "35",
    "Keyword.Type": "36",
    "Literal.Number": "33",
    "Literal.String": "32",
    "Name.Attribute": "34",
    "Name.Builtin": "36",
    "Name.Class": "34",
    "Name.Decorator": "33",
    "Name.Exception": "31",
    "Name.Function": "34",
    "Name.Tag": "35",
    "Operator.Word": "35",
    "Generic.Deleted": "31",
    "Generic.Inserted": "32",
    "Generic.Heading": BOLD,
    "Generic.Subheading": BOLD,
}
