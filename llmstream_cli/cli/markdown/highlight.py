"""Code in colours, line by line.

Pygments reads whole texts; its lexers are state machines, though, whose state can be kept from one
line to the next. What a lexer would only see over a line's end, such as a block comment in C, is
coloured as far as the line shows it.
"""

from typing import Any

from llmstream_cli.cli.markdown.style import Palette, Run

_MAX_LINE_CHARS = 400  # a lexer's expressions can take long for a line made for the purpose


class Highlighter:
    """Colours the lines of one piece of code.

    Args:
        language: as the fence names it; an unknown one has no colours.
        palette: the styles.
    """

    def __init__(self, language: str, palette: Palette) -> None:
        self._palette = palette
        self._lexer: Any = _find_lexer(language) if palette.color and language else None
        self._stack = ["root"]

    def line(self, text: str, *, complete: bool) -> list[Run]:
        """Return a line in colours.

        Args:
            text: of the line.
            complete: whether it is; the next line then goes on from its end.
        """
        if self._lexer is None or len(text) > _MAX_LINE_CHARS:
            return [Run(text)]
        from pygments.lexer import ExtendedRegexLexer, LexerContext

        context = LexerContext(text + "\n", 0, stack=[*self._stack])
        try:
            # What `RegexLexer` keeps to itself, the extended one takes and returns.
            tokens = ExtendedRegexLexer.get_tokens_unprocessed(self._lexer, context=context)
            runs = [Run(part.rstrip("\n"), self._style(kind)) for _, kind, part in tokens]
        except Exception:  # noqa: BLE001  (a lexer with code of its own that wants another caller)
            self._lexer = None
            return [Run(text)]
        if complete:
            self._stack = context.stack or ["root"]
        return [run for run in runs if run.text]

    def _style(self, kind: Any) -> str:
        return self._palette.token(str(kind).removeprefix("Token."))


def _find_lexer(language: str) -> Any:
    from pygments.lexer import RegexLexer
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language.lower())
    except ClassNotFound:
        return None
    return lexer if isinstance(lexer, RegexLexer) else None
