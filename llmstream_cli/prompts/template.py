"""A model's chat template, rendered where it can do no harm: see `sandbox`."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmstream_cli.errors import PromptError, one_line
from llmstream_cli.prompts import sandbox
from llmstream_cli.prompts.messages import Message, Role
from llmstream_cli.prompts.shapes import Shape, find_shape

MAX_SOURCE_CHARS = 512 * 1024

_MAX_SHAPES = 256  # of conversations by their roles, which are remembered


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source in the dialect of Hugging Face's `apply_chat_template`.

    Raises:
        PromptError: it is too long or no valid Jinja.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise PromptError(f"the chat template has {len(source)} characters; too many to run")
        try:
            self._template = sandbox.ENVIRONMENT.from_string(source)
        # Jinja compiles to Python, whose own compiler can refuse what Jinja let pass.
        except Exception as error:
            raise PromptError(f"the chat template is invalid: {one_line(error)}") from error
        self._shapes: dict[tuple[bool | Role, ...], Shape] = {}

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render the template.

        Args:
            variables: see `chat_variables`.

        Raises:
            PromptError: the template refuses the messages, fails, or exceeds a limit.
        """
        allowance = sandbox.Allowance(sandbox.MAX_SECONDS)
        token = sandbox.allowance.set(allowance)
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(variables, range=allowance.range):
                pieces.append(piece)
                length += len(piece)
                allowance.charge(len(piece))
                if length > sandbox.MAX_TEXT_CHARS:
                    raise PromptError("the chat template writes too much")
        except PromptError:
            raise
        # A template is a foreign program: it can raise whatever Python can.
        except Exception as error:
            raise PromptError(f"the chat template failed: {one_line(error)}") from error
        finally:
            sandbox.allowance.reset(token)
        return "".join(pieces)

    def shape(self, messages: Sequence[Message], *, opens_turn: bool = True) -> Shape:
        """Return the shape in which the template reads such messages; see `find_shape`.

        Args:
            messages: only their roles matter.
            opens_turn: see `chat_variables`.

        Raises:
            PromptError: there is none.
        """

        def probe(arranged: Sequence[Message], typed: bool) -> str:
            return self.render(
                chat_variables(
                    arranged, bos_token="", eos_token="", typed=typed, opens_turn=opens_turn
                )
            )

        key = opens_turn, *(message.role for message in messages)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = find_shape(probe, messages)
        return shape


def chat_variables(
    messages: Sequence[Message],
    *,
    bos_token: str,
    eos_token: str,
    typed: bool = False,
    opens_turn: bool = True,
) -> dict[str, Any]:
    """Return what templates of the dialect expect.

    Args:
        messages: the conversation.
        bos_token: text of the token that begins a sequence.
        eos_token: text of the one that ends it.
        typed: give each content as a list of typed parts.
        opens_turn: whether the assistant's turn is to be opened at the end.
    """
    return {
        "messages": [
            {
                "role": m.role,
                "content": [{"type": "text", "text": m.content}] if typed else m.content,
            }
            for m in messages
        ],
        "add_generation_prompt": opens_turn,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
    }
