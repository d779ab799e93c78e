"""What `ask` and `chat` have in common: whom they ask, in what manner, and what they keep."""

from dataclasses import dataclass

from llmstream_cli.cli.conversation import Conversation
from llmstream_cli.cli.engine_options import EngineOptions, OpenEngine
from llmstream_cli.cli.question import system_message
from llmstream_cli.cli.recording import Recorder, RecordOptions
from llmstream_cli.cli.sampling import SamplingOptions
from llmstream_cli.cli.views import ViewOptions
from llmstream_cli.core.api import GenerationRequest


@dataclass(frozen=True, slots=True)
class Begun:
    """A conversation, and who goes on with it.

    Attributes:
        conversation: what was said before.
        recorder: keeps what is said now.
        engine: the options of the model.
        opened: the model, which may still be loading.
    """

    conversation: Conversation
    recorder: Recorder
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
        resumed = self.record.resume()
        if system is not None:
            resumed.conversation.system = system
        engine, opened = self.engine.open_for(resumed.model)
        return Begun(resumed.conversation, resumed.recorder, engine, opened)

    def request(
        self, conversation: Conversation, question: str, opened: OpenEngine
    ) -> GenerationRequest:
        """Return what the engine is asked to answer the next question of a conversation."""
        return GenerationRequest(
            conversation.asking(question),
            self.sampling.over(opened.sampling),
            unset=self.sampling.unset,
            thinking=self.think,
        )
