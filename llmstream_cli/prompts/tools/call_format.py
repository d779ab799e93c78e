"""How one model writes calls."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from llmstream_cli.prompts.messages import Tool, ToolChoice
from llmstream_cli.prompts.tokenizer import Tokenizer
from llmstream_cli.prompts.tools.families import Family, find_family
from llmstream_cli.prompts.tools.grammar import as_json, write_grammar
from llmstream_cli.prompts.tools.parser import CallParser
from llmstream_cli.prompts.tools.pattern import Mark
from llmstream_cli.prompts.tools.syntax import Syntax

# Characters that Unicode keeps out of texts; `core/output.py` has those before them.
_FIRST_CHARACTER, _LAST_CHARACTER = 0xFDD8, 0xFDEF


class CallFormat:
    """How one model writes calls.

    Attributes:
        family: of the model.
        marks: the UTF-8 of a character that is no text, for each control token of a call: so the
            parser sees the token, and never takes for it what is only spelled like it.
    """

    def __init__(self, family: Family, tokenizer: Tokenizer) -> None:
        self.family = family
        tokens = [token for token in tokenizer.control_tokens() if token.text in family.syntax]
        assert len(tokens) <= _LAST_CHARACTER - _FIRST_CHARACTER
        self._marks = tuple(
            Mark(token.id, family.given_tokens.get(token.text, chr(code)), token.text)
            for code, token in enumerate(tokens, _FIRST_CHARACTER)
        )
        self.marks: Mapping[int, bytes] = {
            mark.token_id: mark.character.encode() for mark in self._marks
        }

    @cached_property
    def _syntax(self) -> Syntax:
        return Syntax.of(self.family, self._marks)

    def grammar(
        self,
        tools: Sequence[Tool],
        choice: ToolChoice,
        *,
        begun: bool,
        arguments: Callable[[Tool], str] | None = None,
    ) -> str:
        """Return a grammar of calls, in llguidance's dialect of Lark.

        Args:
            tools: which there are.
            choice: which of them may be called, and how often.
            begun: the answer has come to the opening of its first call, which the grammar leaves
                out; else it begins with the first call.
            arguments: an expression for the arguments of a tool, in place of its schema as
                `%json`. Where a model writes each argument by itself, it is asked for those that
                are written as JSON, with a tool whose schema is the argument's. Rules for it can
                be added behind the grammar, whose own names all begin with `call`, `tool` or
                `space`.

        Raises:
            InvalidValueError: this model cannot write what a tool's schema asks for.
        """
        allowed = _allowed(tools, choice)
        return write_grammar(
            self._syntax,
            allowed,
            begun=begun,
            parallel=choice.parallel,
            arguments=arguments or as_json,
        )

    def parser(self, tools: Sequence[Tool], choice: ToolChoice, *, begun: bool) -> CallParser:
        """Return what tells the calls of one answer from its text; as `grammar`."""
        return CallParser(
            self._syntax, _allowed(tools, choice), begun=begun, parallel=choice.parallel
        )


def find_call_format(template_source: str | None, tokenizer: Tokenizer) -> CallFormat:
    """Return how a model writes calls, by its chat template and vocabulary.

    A template that knows nothing of calls gets a form that a system message explains.
    """
    control = {token.text for token in tokenizer.control_tokens()}
    return CallFormat(find_family(template_source or "", control), tokenizer)


def _allowed(tools: Sequence[Tool], choice: ToolChoice) -> list[Tool]:
    return [tool for tool in tools if not choice.names or tool.name in choice.names]
