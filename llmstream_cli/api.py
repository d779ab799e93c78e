"""What the skins know of an engine: requests, chunks, and the protocol that every engine speaks."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.formats import ChatFormat
from llmstream_cli.prompts.messages import Ending, Message
from llmstream_cli.sampling import SamplingParams as SamplingParams  # noqa: PLC0414  (exported)

FIRST_CTX_SIZE = 512  # of each request, until one needs more


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        messages: the conversation so far; the engine's model decides how it is written down.
        sampling: how to draw and when to stop.
        prompt: continue this instead of `messages`, as it is: text, in which control tokens are
            read, or token ids. What comes of it is all answer, and never reasoning.
        keep_alive: how many seconds the model stays loaded for this client, where requests load it
            (see `Residency`); infinite is for good, None as the operator said.
        unset: names of the parameters in `sampling` that nobody asked for. An engine that passes
            the request on leaves them to the other server; one that generates itself takes the
            values that stand there.
        thinking: whether the model reasons before it answers, as its chat template's
            `enable_thinking`; None leaves it to the template. Where the answer has to follow a
            grammar or a schema it does not.
        report_progress: send chunks that tell how far the request is before its first token.
        client: who asks, where that is known: the model stays loaded for each as long as it wants.
        cache_scope: prefixes are shared among requests of one scope only.
        ending: how the prompt ends; None leaves the assistant's message open where it is the last
            and has a text, so that the answer goes on with it, and opens a turn after any other.

    Raises:
        InvalidValueError: there are both messages and a prompt, or neither; or thinking is asked
            for where there can be none.
    """

    messages: tuple[Message, ...] = ()
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009  (it is frozen)
    prompt: str | tuple[int, ...] | None = None
    keep_alive: float | None = None
    unset: tuple[str, ...] = ()
    thinking: bool | None = None
    report_progress: bool = False
    client: str = ""
    cache_scope: str = ""
    ending: Ending | None = None

    @property
    def continues_message(self) -> bool:
        """Whether the answer goes on with the last message."""
        return self.prompt_ending == "message"

    @property
    def prompt_ending(self) -> Ending:
        """How the prompt of messages ends."""
        if self.ending is not None or not self.messages:
            return self.ending or "turn"
        last = self.messages[-1]
        return "message" if last.role == "assistant" and last.content else "turn"

    def __post_init__(self) -> None:
        if (
            self.ending == "message"
            and self.messages[-1:]
            and (self.messages[-1].role != "assistant")
        ):
            raise InvalidValueError("only a last message of the assistant's can be continued")
        if bool(self.messages) == (self.prompt is not None):
            raise InvalidValueError("a request has either messages or a prompt")
        if self.keep_alive is not None and not self.keep_alive >= 0:
            raise InvalidValueError("keep_alive must not be negative", "keep_alive")
        if self.thinking and self.prompt is not None:
            raise InvalidValueError(
                "thinking needs messages; a raw prompt is continued as it is", "thinking"
            )
        if self.thinking and self.sampling.is_constrained:
            raise InvalidValueError(
                "thinking cannot be combined with a grammar or a JSON schema, which hold from the "
                "first token on",
                "thinking",
            )


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended its turn, or a stop string came
    LENGTH = "length"  # max_tokens or the context is used up
    CANCELLED = "cancelled"  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    Attributes:
        prompt_tokens: tokens of the rendered prompt.
        completion_tokens: tokens drawn, without the one that ends the turn.
        prompt_seconds: from the first computed prompt token to the first drawn token.
        completion_seconds: from the first drawn token to the last.
        cached_tokens: tokens of the prompt that were taken from the prefix cache.
        reasoning_tokens: those of the drawn tokens that are reasoning, its tags among them.
    """

    prompt_tokens: int
    completion_tokens: int
    prompt_seconds: float
    completion_seconds: float
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation; the first token belongs to the prompt. 0.0 below two tokens."""
        steps = self.completion_tokens - 1
        return steps / self.completion_seconds if steps > 0 and self.completion_seconds else 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how likely it was.

    Attributes:
        token_id: the token.
        piece: its bytes, maybe a part of a character.
        logprob: natural logarithm of its probability.
    """

    token_id: int
    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class DrawnLogprob:
    """A drawn token and the most likely ones at its place.

    Attributes:
        drawn: the token itself.
        top: the most likely tokens, in order; as many as were asked for.
    """

    drawn: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is that has no token yet.

    Attributes:
        num_before: requests in the queue that get a slot before it; None once it has one.
        num_computed_tokens: tokens of the prompt that are computed, or taken from the prefix cache.
        num_prompt_tokens: all of them.
    """

    num_before: int | None
    num_computed_tokens: int
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to an answer.

    Attributes:
        text: new text; empty while a character or a possible stop string is incomplete.
        token_ids: the tokens drawn, in order; their text may come in a later chunk. Another server
            does not tell them.
        finish_reason: set on the last chunk and only there.
        usage: set on the last chunk and only there; None where another server does not tell.
        logprobs: where they were asked for, one for each token of the answer: those of its
            reasoning have none. They come with their tokens, or later where it was not certain that
            these belong to the answer.
        reasoning: new text of what the model thinks before its answer; all of it comes before the
            first of `text`, and never in it.
        progress: where that was asked for; such a chunk has nothing else, and comes before all that
            have.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    logprobs: tuple[DrawnLogprob, ...] = ()
    reasoning: str = ""
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model. Another server's model has zeros where that server does not tell.

    Attributes:
        name: the file's name without its ending, or what another server calls it.
        description: architecture, size and quantization, as llama.cpp words them.
        ctx_size: the most tokens that prompt and answer may have together.
        load_seconds: how long loading took.
        cpu_features: what the kernels were compiled for, such as {"avx": True, "neon": False}.
        ctx_train: tokens of context that the model was trained with.
        vocab_size: tokens in its vocabulary.
        num_parameters: weights.
        size_bytes: of the weights, in memory.
        metadata: the GGUF file's own keys and values as text, arrays left out.
        chat_template: Jinja source of the chat template in force, if there is one.
        chat_format: the name of the format that the template is from; None if it is the file's own.
        thinks: whether it may reason before it answers.
    """

    name: str
    description: str
    ctx_size: int
    load_seconds: float
    cpu_features: dict[str, bool]
    ctx_train: int = 0
    vocab_size: int = 0
    num_parameters: int = 0
    size_bytes: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    chat_format: str | None = None
    thinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine is set up.

    Attributes:
        model_path: a GGUF file.
        ctx_size: the most tokens of one prompt and answer; None is what the model was trained
            with, or as much of that as there is memory for.
        threads: CPU threads; None is one for each physical core this process may use.
        gpu_layers: layers to keep on a GPU, where llama-cpp-python was built for one; -1 is all.
        max_batch_tokens: the most tokens of one step, hence how long a step can last; at least two
            for each of `max_seqs`, whatever is said here.
        max_seqs: requests that generate at once; each has `ctx_size` tokens of its own. Memory is
            taken as the longest of them grows.
        max_queue: requests that wait for their turn; one more is refused.
        chat_format: how conversations are written down, whatever the file says.
        default_chat_format: how they are if the file has no chat template.
        max_bytes: memory that weights, context and program may take together; None is without a
            limit other than the machine's.
    """

    model_path: str
    ctx_size: int | None = None
    threads: int | None = None
    gpu_layers: int = 0
    max_batch_tokens: int = 64
    max_seqs: int = 1
    max_queue: int = 256
    chat_format: ChatFormat | None = None
    default_chat_format: ChatFormat | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("ctx_size", 16, 2**24),
            ("threads", 1, 512),
            ("gpu_layers", -1, 10_000),
            ("max_batch_tokens", 1, 4096),
            ("max_seqs", 1, 256),
            ("max_queue", 0, 100_000),
            ("max_bytes", 0, 2**60),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidValueError(f"{name} must be between {low} and {high}", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """An engine's state after a step, and its counters since the start.

    Attributes:
        running: requests that hold a slot.
        waiting: requests in the queue.
        slots: requests that can run at once.
        prompt_tokens: tokens of all prompts that began to run.
        cached_tokens: those of them that were taken from the prefix cache.
        generated_tokens: tokens drawn.
        steps: steps computed.
        step_seconds: time of all steps together.
        cache_tokens: tokens in the KV cache, of running and of idle slots.
        cache_capacity: tokens that it can hold.
        restarts: how often the engine died and was started again.
        rss_bytes: resident memory of the engine's process; 0 where it is this one.
    """

    running: int = 0
    waiting: int = 0
    slots: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    cache_tokens: int = 0
    cache_capacity: int = 0
    restarts: int = 0
    rss_bytes: int = 0

    def after(self, past: "EngineMetrics") -> "EngineMetrics":
        """Return this state, with the counters of an engine that came before added to its own."""
        counted = {name: getattr(past, name) + getattr(self, name) for name in _COUNTERS}
        return replace(self, **counted)


_COUNTERS = (
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "steps",
    "step_seconds",
    "restarts",
)


class EngineState(StrEnum):
    """Whether an engine can generate."""

    IDLE = "idle"  # not loaded; a request loads it
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"  # it died, and is being started again
    FAILED = "failed"  # for good
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """An engine's state, and in a line for a person why it is not ready.

    Attributes:
        state: see `EngineState`.
        reason: empty while it is ready.
    """

    state: EngineState
    reason: str = ""


class Engine(Protocol):
    """Something that generates: in this process, in a child process, or on another machine."""

    @property
    def status(self) -> EngineStatus:
        """The state now."""

    @property
    def metrics(self) -> EngineMetrics:
        """State and counters after the last step."""

    def start(self) -> None:
        """Begin to load the model and return at once."""

    async def ready(self) -> ModelInfo:
        """Wait until the model is loaded.

        Raises:
            ModelError: it cannot be loaded.
        """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Stream the answer. Closing the generator cancels the request within one step.

        Raises:
            PromptError: the messages make no prompt that fits; nothing was computed.
            QueueFullError: too many requests wait already; nothing was computed.
            EngineError: the engine failed; the chunks before it are good.
        """

    async def aclose(self) -> None:
        """Stop what runs, release the model, and refuse further requests."""


class Residency(Protocol):
    """When the model of an engine is in memory, where requests load it: see `engines.pool`."""

    @property
    def info(self) -> ModelInfo | None:
        """The model, if it is loaded; to ask neither loads it nor keeps it."""

    @property
    def memory_bytes(self) -> int:
        """What it takes of the memory for models; 0 while it is not loaded."""

    @property
    def loads(self) -> int:
        """How often it was loaded."""

    @property
    def load_seconds(self) -> float:
        """How long all its loads took together."""

    @property
    def unloads(self) -> int:
        """How often it was unloaded."""

    @property
    def expires_seconds(self) -> float:
        """Seconds until it is unloaded if nobody asks; infinite for never."""

    async def load(self, keep_alive: float | None = None, client: str = "") -> ModelInfo:
        """Wait until the model is loaded; the time begins anew that it stays so for this client.

        Args:
            keep_alive: as of a `GenerationRequest`.
            client: as of a `GenerationRequest`.

        Raises:
            LLMStreamError: as `Engine.generate`.
        """

    def unload(self, client: str = "") -> bool:
        """Unload the model as soon as it answers no request, unless other clients want it.

        Returns:
            Whether none of them does.
        """
