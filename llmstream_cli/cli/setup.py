"""What `ask` and `chat` have in common: whom they ask, in what manner, and what they keep.

What shows and keeps answers is imported while the model loads, or the first token waited for it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llmstream_cli.api import GenerationRequest
from llmstream_cli.cli.engine_options import EngineOptions, OpenEngine
from llmstream_cli.cli.question import system_message
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.errors import InvalidValueError

if TYPE_CHECKING:
    from llmstream_cli.cli.conversation import Conversation
    from llmstream_cli.cli.recording import Recorder, Resumed
    from llmstream_cli.cli.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What the user said of how to show answers; see the options of `ask` for each attribute.

    Attributes:
        markdown: whether a terminal gets the text rendered.
        reasoning: whether to show what the model thinks before it answers.

    Raises:
        InvalidValueError: two ways exclude each other.
    """

    json: bool = False
    json_lines: bool = False
    markdown: bool = True
    reasoning: bool = True

    def __post_init__(self) -> None:
        if self.json and self.json_lines:
            raise InvalidValueError("--json and --json-lines exclude each other")

    def make(self) -> "View":
        """Return a view of one answer.

        Raises:
            OutputError: standard output is closed.
        """
        from llmstream_cli.cli.views import JsonLinesView, JsonView, TextView

        if self.json:
            return JsonView()
        if self.json_lines:
            return JsonLinesView()
        return TextView(markdown=self.markdown, reasoning=self.reasoning)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """What the user said of keeping; see the options of `ask` for each attribute."""

    continues: bool = False
    session: str | None = None
    off: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether a conversation that was kept goes on."""
        return self.continues or self.session is not None

    def resume(self) -> "Resumed":
        """Return the conversation to go on with, or a new one; see `recording.resume`."""
        from llmstream_cli.cli.recording import resume

        return resume(self)


class Begun(NamedTuple):
    """A conversation, and who goes on with it.

    Attributes:
        conversation: what was said before.
        recorder: keeps what is said now.
        engine: the options of the model.
        opened: the model, which may still be loading.
    """

    conversation: "Conversation"
    recorder: "Recorder"
    engine: EngineOptions
    opened: OpenEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the user said; see the options of the commands for each attribute."""

    engine: EngineOptions
    system: str | None
    context: str | None
    sampling: SamplingOptions
    think: bool | None
    view: ViewOptions
    record: RecordOptions
    stats: bool

    def begin(self) -> Begun:
        """Find the conversation, open the model, and return while it is being loaded.

        Raises:
            LLMStreamError: there is no such conversation, context or model.
        """
        system = system_message(self.system, self.context)
        if self.record.goes_on:
            resumed = self.record.resume()
            engine, opened = self.engine.open_for(resumed.model)
        else:
            engine, opened = self.engine, self.engine.open()
            resumed = self.record.resume()
        if system is not None:
            resumed.conversation.system = system
        return Begun(resumed.conversation, resumed.recorder, engine, opened)

    def request(
        self, conversation: "Conversation", question: str, opened: OpenEngine
    ) -> GenerationRequest:
        """Return what the engine is asked to answer the next question of a conversation."""
        return GenerationRequest(
            conversation.asking(question),
            self.sampling.over(opened.sampling),
            unset=self.sampling.unset,
            thinking=self.think,
        )
