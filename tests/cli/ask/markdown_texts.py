"""Markdown for the tests: random, full of what begins markup and of what almost does."""

import string

from hypothesis import strategies as st

_BEGINNINGS = [
    *("# ", "### ", "- ", "* ", "+ ", "1. ", "2) ", "7. ", "> ", "#", "-", "1.", "|", "`"),
    *("  ", "   ", "    ", "\t", "```", "```python", "~~~", "---", "***", "_ _ _", "- - -", "==="),
]
_ROWS = ["| a | b |", "|---|--:|", "| **c** | d e f |", "|:-|", "| g", "|x|y|z|"]
_PIECES = [
    *("word ", "a ", "**bold** ", "**b ", "c** ", "*i*", "`x y` ", "[l](u) ", "~~s~~", "_e_ "),
    *("日本語", "。", "é́", "😀", "x" * 30, "|", "\\|", "<b>", "<http://a.b>", "&amp;", "&#27;"),
    *("*", "**", "_", "`", "[", "](", ")", "<", "\\", "!", "~~", "- ", "def f(): ", '""" ', "/* "),
]

pieces = st.lists(st.sampled_from(_PIECES), max_size=8).map("".join)
_lines = st.builds(
    "".join, st.tuples(st.lists(st.sampled_from(_BEGINNINGS), max_size=3).map("".join), pieces)
)
documents = st.lists(st.one_of(_lines, st.sampled_from(_ROWS), st.just("")), max_size=10).map(
    "\n".join
)
# Without tables, whose words change places when their columns do.
documents_without_tables = documents.map(lambda text: text.replace("|", "/"))


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text in pieces."""
    borders = draw(st.lists(st.integers(0, len(text)), max_size=len(text)).map(sorted))
    return [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]


def visible(text: str) -> str:
    """A text without white space and without what rows are decorated with."""
    decoration = string.whitespace + "│─"
    return "".join(character for character in text if character not in decoration)
