"""A model's chat template, rendered where it can do no harm: see `sandbox`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from llmstream_cli.errors import PromptError
from llmstream_cli.prompts import sandbox
from llmstream_cli.prompts.messages import Message

MAX_SOURCE_CHARS = 512 * 1024

_PROBE_SYSTEM, _PROBE_USER = "probe of the system role", "probe of the user role"


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
            raise PromptError(f"the chat template is invalid: {sandbox.one_line(error)}") from error

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
            raise PromptError(f"the chat template failed: {sandbox.one_line(error)}") from error
        finally:
            sandbox.allowance.reset(token)
        return "".join(pieces)

    @cached_property
    def takes_system_role(self) -> bool:
        """Whether the template writes a system message down: some refuse it, some drop it.

        Found out by rendering. A template that fails without a system message too is given the
        benefit of the doubt, so that its own words reach whoever asked.
        """
        user = Message("user", _PROBE_USER)
        try:
            return _PROBE_SYSTEM in self._probe([Message("system", _PROBE_SYSTEM), user])
        except PromptError:
            try:
                self._probe([user])
            except PromptError:
                return True
            return False

    def _probe(self, messages: Sequence[Message]) -> str:
        return self.render(chat_variables(messages, bos_token="", eos_token=""))


def chat_variables(
    messages: Sequence[Message], *, bos_token: str, eos_token: str
) -> dict[str, Any]:
    """Return what templates of the dialect expect, for the assistant to answer."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "add_generation_prompt": True,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": None,
        "documents": None,
    }
