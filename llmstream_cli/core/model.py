"""A loaded model and what follows from it: what it is, and how prompts are written for it."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmstream_cli.api import (
    EmbeddingRequest,
    EngineConfig,
    GenerationRequest,
    ModelInfo,
    SamplingParams,
    TokenizeRequest,
    Tokens,
)
from llmstream_cli.core.llama import Model, TokenConstraint, cpu_features, does_not_continue
from llmstream_cli.core.model_reasoning import ModelReasoning
from llmstream_cli.core.output import CallParser
from llmstream_cli.core.reasoning import Splitter
from llmstream_cli.errors import InvalidValueError, ModelKindError, PromptError
from llmstream_cli.prompts.messages import Tool

if TYPE_CHECKING:
    from llmstream_cli.core.grammar.constraint import Constraint, GrammarCompiler
    from llmstream_cli.prompts.template import ChatTemplate
    from llmstream_cli.prompts.tools import CallFormat

_NO_LIMIT = 2**31  # tokens; nothing is computed of them
_MAX_TEMPLATE_CHARS = 512 * 1024  # to be shown; a longer one is not rendered either


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request in the model's own terms."""

    prompt: list[int]  # token ids, fewer than the context holds
    constraint: TokenConstraint | None = None  # its grammar or JSON schema, compiled
    constraint_begins_later: bool = False  # with a call of a tool, not with the first token
    # How tokens are drawn while the constraint is active, where that differs.
    constrained: SamplingParams | None = None
    # Makes what tells calls of tools from the text, where there are tools.
    calls: Callable[[], CallParser] | None = None
    marks: Mapping[int, bytes] = field(default_factory=dict)  # see `CallFormat.marks`
    turn_ends: tuple[str, ...] = ()  # texts that end the answer, besides its own stop strings
    # Tells its reasoning from the answer; None if all that comes is answer, as where a constraint
    # holds for the whole of it.
    splitter: Splitter | None = None
    report_progress: bool = False  # see `GenerationRequest`
    cache_scope: str = ""  # see `GenerationRequest`


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """The inputs of an `EmbeddingRequest` in the model's own terms."""

    inputs: list[list[int]]  # token ids, none empty, none longer than the context


class LoadedModel:
    """A loaded model. Every method may be called from any thread."""

    def __init__(self, config: EngineConfig, *, vocab_only: bool = False) -> None:
        self._lock = threading.Lock()  # around `_grammars`; `cached_property` itself has none
        self.model = Model(config.model_path, gpu_layers=config.gpu_layers, vocab_only=vocab_only)
        ctx_train = self.model.ctx_train
        if not vocab_only and config.ctx_size is not None and config.ctx_size > ctx_train:
            raise InvalidValueError(
                f"ctx_size is {config.ctx_size}, and the model was trained with {ctx_train}",
                "ctx_size",
            )
        own = self.model.chat_template
        self._format = config.chat_format or (config.default_chat_format if own is None else None)
        template = own if self._format is None else self._format.template
        self._reasoning = ModelReasoning(self.model, template)
        self.info = ModelInfo(
            name=Path(config.model_path).stem,
            description=self.model.description,
            ctx_size=config.ctx_size or ctx_train,
            load_seconds=self.model.load_seconds,
            cpu_features=cpu_features(),
            ctx_train=ctx_train,
            vocab_size=self.model.vocab_size,
            num_parameters=self.model.num_parameters,
            size_bytes=self.model.size_bytes,
            metadata=self.model.metadata(),
            chat_template=None if len(template or "") > _MAX_TEMPLATE_CHARS else template,
            chat_format=None if self._format is None else self._format.name,
            thinks=bool(self._reasoning),
        )

    @cached_property
    def _template(self) -> "ChatTemplate":
        from llmstream_cli.prompts.template import ChatTemplate

        source = self.model.chat_template if self._format is None else self._format.template
        if source is None:
            raise PromptError(
                f"{self.info.name} has no chat template: name one with --template, or send it text "
                "to continue as it is (ask --raw, /v1/completions, /api/generate with raw)"
            )
        return ChatTemplate(source)

    @cached_property
    def _calls(self) -> "CallFormat":
        from llmstream_cli.prompts.tools import find_call_format

        source = self.model.chat_template if self._format is None else self._format.template
        return find_call_format(source, self.model)

    @cached_property
    def _grammars(self) -> "GrammarCompiler":
        from llmstream_cli.core.grammar.constraint import GrammarCompiler

        return GrammarCompiler(self.model)

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Encode a request. The first one with a grammar also reads the vocabulary: 0.2 s or so.

        Raises:
            PromptError: there can be no prompt.
            InvalidValueError: a token is not in the vocabulary, or the grammar cannot be compiled.
        """
        if self.info.pooling is not None:
            raise ModelKindError(does_not_continue(self.info.name))
        sampling = request.sampling
        self._check_vocabulary((token for token, _ in sampling.logit_bias), "logit_bias")
        if request.thinking and not self._reasoning:
            raise InvalidValueError(
                f"thinking is not supported by {self.info.name}; leave it out", "thinking"
            )
        at_once = sampling.is_constrained or request.tool_choice.mode == "required"
        if at_once and request.thinking is None:
            request = replace(request, thinking=False)
        prompt = self._encode_prompt(request, ctx_size=self.info.ctx_size)
        prompt, splitter = self._begin_answer(request, prompt)
        encoded = EncodedRequest(
            prompt,
            report_progress=request.report_progress,
            cache_scope=request.cache_scope,
        )
        if request.is_constrained:
            constrained = _without_default_penalties(request)
            encoded = replace(encoded, constraint=self._compile(request), constrained=constrained)
        if request.callable_tools:
            tools, choice = [*map(_with_read_schema, request.callable_tools)], request.tool_choice
            encoded = replace(
                encoded,
                constraint_begins_later=not at_once,
                calls=partial(self._calls.parser, tools, choice, begun=False),
                marks=self._calls.marks,
            )
        if at_once:
            return encoded
        return replace(encoded, turn_ends=self._turn_ends(request), splitter=splitter)

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return the tokens of a text, or those that are given.

        Raises:
            InvalidValueError: a token is not in the vocabulary.
        """
        if isinstance(request.content, str):
            ids = self.model.tokenize(
                request.content, special=request.parse_special, ends=request.add_special
            )
        else:
            ids = [*request.content]
            self._check_vocabulary(ids, "tokens")
        return Tokens(tuple(ids), tuple(map(self.model.written, ids)))

    def encode_texts(self, request: EmbeddingRequest) -> EncodedTexts:
        """Encode texts, with the tokens that the model wants at the ends of one.

        Raises:
            PromptError: one has no tokens, or more than the context holds.
            InvalidValueError: a token is not in the vocabulary.
            ModelKindError: the model is, or is not, a reranker, and the other is wanted.
        """
        check_pooling(request, self.info)
        head: list[int] = []
        tail: list[int] = []
        if request.query is None:
            ends = self.model.tokenize("", special=False, ends=True)
            num_leading = int(bool(ends) and ends[0] == self.model.leading_token)
            tail = ends[num_leading:]
        else:
            between, tail = self.model.separators
            leading = self.model.leading_token
            query = self.model.tokenize(request.query, special=False)
            head = [*([] if leading is None else [leading]), *query, *between]
        encoded = []
        for index, given in enumerate(request.inputs):
            if isinstance(given, str):
                ends_wanted = request.query is None
                tokens = self.model.tokenize(given, special=False, ends=ends_wanted)
                tokens = tokens if ends_wanted else head + tokens + tail
            else:
                self._check_vocabulary(given, "input")
                tokens = [*given]
            what = f"input {index}" if len(request.inputs) > 1 else "the input"
            encoded.append(self._fitted(tokens, request, what, head, tail))
        return EncodedTexts(encoded)

    def _fitted(
        self,
        tokens: list[int],
        request: EmbeddingRequest,
        what: str,
        head: list[int],
        tail: list[int],
    ) -> list[int]:
        """Return an input's tokens, cut where that is wanted, but not at the ends."""
        size = self.info.ctx_size
        if not tokens:
            raise PromptError(f"{what} has no tokens")
        if len(tokens) <= size:
            return tokens
        if not request.truncate or len(head) + len(tail) >= size:
            raise PromptError(
                f"{what} has {len(tokens)} tokens, and the model takes at most {size}; shorten it, "
                "or send truncate"
            )
        end = tail if tokens[len(tokens) - len(tail) :] == tail else []
        return tokens[: size - len(end)] + end

    def _compile(self, request: GenerationRequest) -> "Constraint":
        with self._lock:
            grammars = self._grammars
        if not request.callable_tools:
            return grammars.compile_grammar(request.sampling)
        tools = [_with_read_schema(tool) for tool in request.callable_tools]
        may_answer = request.tool_choice.mode == "auto"
        schema = request.sampling.json_schema if may_answer else None
        begun = may_answer and schema is None
        return grammars.compile_calls(
            self._calls.grammar(tools, request.tool_choice, begun=begun),
            [*self._calls.marks],
            begins_later=begun,
            answer_schema=schema,
        )

    def count_tokens(self, request: GenerationRequest) -> int:
        """Return how many tokens the request's prompt has, be it more than the context holds."""
        return len(self._encode_prompt(request, ctx_size=_NO_LIMIT))

    def _turn_ends(self, request: GenerationRequest) -> tuple[str, ...]:
        if self._format is None or request.prompt is not None or request.sampling.ignore_eos:
            return ()
        return self._format.stop

    def _encode_prompt(self, request: GenerationRequest, *, ctx_size: int) -> list[int]:
        from llmstream_cli.prompts import encode

        match request.prompt:
            case None:
                return encode.encode_chat(
                    self.model,
                    self._template,
                    request.messages,
                    ctx_size=ctx_size,
                    thinking=request.thinking,
                    ending=request.prompt_ending,
                    tools=request.callable_tools,
                )
            case str(text):
                return encode.encode_text(self.model, text, ctx_size=ctx_size)
            case tokens:
                self._check_vocabulary(tokens, "prompt")
                return encode.check_tokens(list(tokens), ctx_size=ctx_size)

    def _begin_answer(
        self, request: GenerationRequest, prompt: list[int]
    ) -> tuple[list[int], Splitter | None]:
        """Return the prompt, in which unwanted reasoning is closed, and what splits the answer."""
        if request.prompt is not None:
            return prompt, None
        continued = request.messages[-1].content if request.continues_message else None
        splitter, closing = self._reasoning.begin(
            prompt,
            closes=request.thinking is False,
            continued=continued,
            choice=request.tool_choice if request.callable_tools else None,
        )
        if closing:
            from llmstream_cli.prompts.encode import check_tokens

            more = self.model.tokenize(closing, special=True)
            prompt = check_tokens(prompt + more, ctx_size=self.info.ctx_size)
        return prompt, splitter

    def _check_vocabulary(self, tokens: Iterable[int], field: str) -> None:
        size = self.model.vocab_size
        foreign = next((token for token in tokens if not 0 <= token < size), None)
        if foreign is not None:
            raise InvalidValueError(
                f"{field} has token {foreign}, which is not in the vocabulary of {size}", field
            )


def check_pooling(request: EmbeddingRequest, info: ModelInfo) -> None:
    """Refuse to rerank with what is no reranker, and to embed with one."""
    if request.query is not None and info.pooling != "rank":
        raise ModelKindError(
            f"cannot rerank with {info.name}: its file has no rank pooling; choose a reranker"
        )
    if request.query is None and info.pooling == "rank":
        raise ModelKindError(
            f"cannot embed with {info.name}: it is a reranker; choose a model that embeds"
        )


def _with_read_schema(tool: Tool) -> Tool:
    """Return a tool whose schema is as llguidance follows it."""
    from llmstream_cli.core.grammar.constraint import in_style
    from llmstream_cli.core.grammar.json_schema import read_schema

    return replace(tool, parameters=json.dumps(in_style(read_schema(tool.parameters).schema)))


def _without_default_penalties(request: GenerationRequest) -> SamplingParams | None:
    """Return how tokens are drawn inside a grammar: repetition belongs to JSON and to code."""
    neutral = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    changed = {name: value for name, value in neutral.items() if name in request.unset}
    sampling = replace(request.sampling, **changed)  # type: ignore[arg-type]
    return None if sampling == request.sampling else sampling
