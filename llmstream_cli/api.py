"""What the skins know of an engine: requests, chunks, and the protocol that every engine speaks."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from llmstream_cli.errors import InvalidValueError
from llmstream_cli.prompts.formats import ChatFormat
from llmstream_cli.prompts.messages import Ending, Message, Tool, ToolCallDelta, ToolChoice
from llmstream_cli.prompts.texts import EmbeddingRequest as EmbeddingRequest  # noqa: PLC0414
from llmstream_cli.prompts.texts import Embeddings as Embeddings  # noqa: PLC0414
from llmstream_cli.prompts.texts import TokenizeRequest as TokenizeRequest  # noqa: PLC0414
from llmstream_cli.prompts.texts import Tokens as Tokens  # noqa: PLC0414
from llmstream_cli.prompts.texts import pooling_of
from llmstream_cli.sampling import SamplingParams as SamplingParams  # noqa: PLC0414  (exported)

FIRST_CTX_SIZE = 512  # of each request, until one needs more


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to generate.

    Raises:
        InvalidValueError: there are both messages and a prompt, or neither; or thinking is asked
            for where there can be none.
    """

    messages: tuple[Message, ...] = ()  # the model decides how they are written down
    sampling: SamplingParams = SamplingParams()  # noqa: RUF009  (it is frozen)
    # Continue this instead of `messages`, as it is: text, in which control tokens are read, or
    # token ids. What comes of it is all answer, and never reasoning.
    prompt: str | tuple[int, ...] | None = None
    # Seconds that the model stays loaded for this client; infinite is for good, None as the
    # operator said.
    keep_alive: float | None = None
    # Parameters in `sampling` that nobody asked for: left to the server that generates, if there is
    # another.
    unset: tuple[str, ...] = ()
    # Whether the model reasons before it answers; None leaves that to its chat template.
    thinking: bool | None = None
    report_progress: bool = False  # before the first token, by chunks of their own
    client: str = ""  # who asks, where that is known; see `ServedModel`
    cache_scope: str = ""  # prefixes are shared among requests of one scope only
    # How the prompt ends; None leaves the assistant's message open where it is the last and has a
    # text, so that the answer goes on with it, and opens a turn after any other.
    ending: Ending | None = None
    tools: tuple[Tool, ...] = ()  # that the model may call, where there are messages
    tool_choice: ToolChoice = ToolChoice()  # noqa: RUF009  (it is frozen)

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return () if self.tool_choice.mode == "none" else self.tools

    @property
    def is_constrained(self) -> bool:
        """Whether a grammar holds for the answer, or for the calls in it."""
        return self.sampling.is_constrained or bool(self.callable_tools)

    @property
    def continues_message(self) -> bool:
        return self.prompt_ending == "message"

    @property
    def prompt_ending(self) -> Ending:
        if self.ending is not None or not self.messages:
            return self.ending or "turn"
        last = self.messages[-1]
        is_open = last.role == "assistant" and last.content and not last.tool_calls
        return "message" if is_open else "turn"

    def __post_init__(self) -> None:
        role = self.messages[-1].role if self.messages else "assistant"
        if self.ending == "message" and role != "assistant":
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
        self._check_tools()

    def _check_tools(self) -> None:
        names = {tool.name for tool in self.tools}
        required = self.tool_choice.mode == "required"
        unknown = next((name for name in self.tool_choice.names if name not in names), None)
        if unknown is not None:
            raise InvalidValueError(f"tool_choice names {unknown!r}, which is none of the tools")
        if required and not self.tools:
            raise InvalidValueError("tool_choice asks for a call, and there are no tools", "tools")
        if not self.callable_tools:
            return
        for excluded, what in (
            (self.prompt is not None, "a raw prompt"),
            (self.sampling.grammar or self.sampling.regex, "a grammar or a regex for the answer"),
            (self.sampling.ignore_eos, "ignore_eos"),
        ):
            if excluded:
                raise InvalidValueError(f"tools cannot be combined with {what}", "tools")
        if self.thinking and required:
            raise InvalidValueError(
                "thinking cannot be combined with a call that is required, which begins with the "
                "first token",
                "thinking",
            )


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended its turn, or a stop string came
    TOOL_CALLS = "tool_calls"  # the model ended its turn, or was stopped, after calls of tools
    LENGTH = "length"  # max_tokens or the context is used up; the last call may be cut
    CANCELLED = "cancelled"  # nobody waits for it any more


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost."""

    prompt_tokens: int  # tokens of the rendered prompt
    completion_tokens: int  # tokens drawn, without the one that ends the turn
    prompt_seconds: float  # from the first computed prompt token to the first drawn token
    completion_seconds: float  # from the first drawn token to the last
    cached_tokens: int = 0  # tokens of the prompt that were taken from the prefix cache
    reasoning_tokens: int = 0  # those of the drawn tokens that are reasoning, its tags among them

    @property
    def tokens_per_second(self) -> float:
        """Speed of generation; the first token belongs to the prompt. 0.0 below two tokens."""
        steps = self.completion_tokens - 1
        return steps / self.completion_seconds if steps > 0 and self.completion_seconds else 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how likely it was."""

    token_id: int
    piece: bytes  # its bytes, maybe a part of a character
    logprob: float  # natural logarithm of its probability


@dataclass(frozen=True, slots=True)
class DrawnLogprob:
    """A drawn token and the most likely ones at its place."""

    drawn: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()  # in order; as many as were asked for


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is that has no token yet."""

    queue_position: int | None  # requests that get a slot before it; None once it has one
    num_computed_tokens: int  # of the prompt, or taken from the prefix cache
    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to an answer."""

    text: str  # new text; empty while a character or a possible stop string is incomplete
    # Drawn, in order; their text may come in a later chunk. Another server does not tell them.
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None  # set on the last chunk and only there
    usage: Usage | None = None  # on the last chunk; None where another server does not tell
    # Where they were asked for, one for each token of the answer, not of its reasoning. They come
    # later than the tokens where it was not certain yet that these belong to the answer.
    logprobs: tuple[DrawnLogprob, ...] = ()
    reasoning: str = ""  # new text of what the model thinks; all of it comes before `text`
    progress: Progress | None = None  # where that was asked for; the chunk has nothing else
    tool_calls: tuple[ToolCallDelta, ...] = ()  # all of them come after `text`
    # On the last chunk: which of the request's stop strings ended the answer, if one did. Another
    # server does not tell.
    stop_string: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A loaded model. Another server's model has zeros where that server does not tell."""

    name: str  # the file's name without its ending, or what another server calls it
    description: str  # architecture, size and quantization, as llama.cpp words them
    ctx_size: int  # the most tokens that prompt and answer may have together
    load_seconds: float  # how long loading took
    cpu_features: dict[str, bool]  # of the kernels, such as {"avx": True, "neon": False}
    ctx_train: int = 0  # tokens of context that the model was trained with
    vocab_size: int = 0  # tokens in its vocabulary
    num_parameters: int = 0  # weights
    size_bytes: int = 0  # of the weights, in memory
    metadata: dict[str, str] = field(default_factory=dict)  # of the GGUF file, arrays left out
    chat_template: str | None = None  # Jinja source of the one in force, if there is one
    chat_format: str | None = None  # whose template that is; None if it is the file's own
    thinks: bool = False  # whether it may reason before it answers

    @property
    def pooling(self) -> str | None:
        """How a model that only embeds makes one vector of a text; None if it continues text."""
        return pooling_of(self.metadata)

    @property
    def capabilities(self) -> list[str]:
        """What the model is for, in Ollama's words, and one for rerankers."""
        if self.pooling is not None:
            return ["rerank" if self.pooling == "rank" else "embedding"]
        return ["completion", "tools", *(["thinking"] if self.thinks else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How an engine is set up."""

    model_path: str  # a GGUF file
    # The most tokens of one prompt and answer; None is what the model was trained with, or as much
    # of that as there is memory for.
    ctx_size: int | None = None
    threads: int | None = None  # None is one for each physical core this process may use
    gpu_layers: int = 0  # on a GPU, where llama-cpp-python was built for one; -1 is all
    max_batch_tokens: int = 64  # of one step; at least two for each of `max_seqs` are taken
    max_seqs: int = 1  # requests that generate at once; each has `ctx_size` tokens of its own
    max_queue: int = 256  # requests that may wait for their turn in a pool, which refuses one more
    chat_format: ChatFormat | None = None  # how conversations are written, whatever the file says
    default_chat_format: ChatFormat | None = None  # how they are if the file has no chat template
    max_bytes: int | None = None  # of memory, for weights, context and program; None is no limit

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
    """An engine's state after a step, and its counters since the start."""

    running: int = 0  # requests that hold a slot
    waiting: int = 0  # requests in the queue
    slots: int = 0  # requests that can run at once
    prompt_tokens: int = 0  # tokens of all prompts that began to run
    cached_tokens: int = 0  # those of them that were taken from the prefix cache
    generated_tokens: int = 0  # tokens drawn
    steps: int = 0  # steps computed
    step_seconds: float = 0.0  # time of all steps together
    cache_tokens: int = 0  # tokens in the KV cache, of running and of idle slots
    cache_capacity: int = 0  # tokens that it can hold
    restarts: int = 0  # how often the engine died and was started again
    rss_bytes: int = 0  # resident memory of the engine's process; 0 where it is this one

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
    """An engine's state, and in a line for a person why it is not ready."""

    state: EngineState
    reason: str = ""  # empty while it is ready


class Engine(Protocol):
    """Something that generates: in this process, in a child process, or on another machine."""

    @property
    def status(self) -> EngineStatus: ...
    @property
    def metrics(self) -> EngineMetrics: ...

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

    async def count_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens the request's prompt has, be it longer than the context.

        Raises what `generate` does.
        """

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the tokens of a text, or those that are given, and what each stands for."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return a vector for each input. Cancelling the task cancels the request.

        Raises:
            ModelKindError: scores are asked for, and the model is no reranker; or the reverse.
            PromptError: an input is longer than the context; nothing was computed.
            EngineError: the engine failed.
        """

    async def aclose(self) -> None:
        """Stop what runs, release the model, and refuse further requests."""
