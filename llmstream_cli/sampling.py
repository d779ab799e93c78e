"""The table of sampling parameters: how the next token is drawn, and when to stop drawing.

A row is a field of `SamplingParams`: name, type and default, what it does, its bounds, and what
other programs' APIs call it. HTTP dialects, requests to other servers, options of the command line
and settings of a chat derive from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, get_args, get_type_hints

from llmstream_cli.errors import InvalidValueError

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_LOGIT_BIASES = 1024
MAX_GRAMMAR_CHARS = 64 * 1024
MAX_BIAS = 100.0


_LOCAL = "llamacpp vllm sglang ollama"
_OPENAI = "openai llamacpp vllm sglang"
_ALL = "openai llamacpp vllm sglang ollama"


def _row(
    default: Any,
    help_: str,
    bounds: tuple[float, float] | None,
    apis: str,
    flags: str = "",
    unset: str = "",
) -> Any:
    low, high = bounds or (None, None)
    names = {api: name for api, _, name in (one.partition("=") for one in apis.split())}
    metadata = {"help": help_, "low": low, "high": high, "names": names}
    return field(default=default, metadata=metadata | {"flags": flags.split(), "unset": unset})


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Values of the parameters.

    The samplers run in llama.cpp's order: grammar, logit bias, penalties, top-k, top-p (nucleus
    sampling, Holtzman et al. 2019, arXiv:1904.09751), min-p (Nguyen et al. 2024, arXiv:2407.01082),
    temperature, draw. The repeat penalty is CTRL's (Keskar et al. 2019, arXiv:1909.05858).

    Raises:
        InvalidValueError: a value is out of its bounds or not finite, or two exclude each other.
    """

    temperature: float = _row(
        0.2,
        "divides the logits; 0, or less than 0.0001, takes the most likely token",
        (0, 10),
        _ALL,
        "--temperature -t",
    )
    top_k: int = _row(
        40, "draw from the k most likely tokens; 0 from all", (0, 10**6), _LOCAL, "--top-k"
    )
    top_p: float = _row(
        0.95,
        "draw from the smallest set of tokens that together reach this probability",
        (0, 1),
        _ALL,
        "--top-p",
    )
    min_p: float = _row(
        0.05, "drop tokens less likely than this times the likeliest", (0, 1), _LOCAL, "--min-p"
    )
    repeat_penalty: float = _row(
        1.1,
        "make tokens in the window less likely; 1 is off",
        (0.1, 10),
        "llamacpp ollama vllm=repetition_penalty sglang=repetition_penalty",
        "--repeat-penalty",
    )
    repeat_last_n: int = _row(
        64,
        "size of that window, over prompt and answer; 0 is off, -1 the whole context",
        (-1, 10**6),
        "llamacpp ollama",
        "--repeat-last-n",
    )
    presence_penalty: float = _row(
        0.0, "subtracted from the logit of each token in the window", (-2, 2), _ALL
    )
    frequency_penalty: float = _row(
        0.0, "subtracted for each time the token stands in the window", (-2, 2), _ALL
    )
    # llama.cpp reads 2**32 - 1 as "choose one". None takes a fresh one.
    seed: int | None = _row(
        None,
        "draw the same answer each time",
        (0, 2**32 - 2),
        _ALL,
        "--seed",
        unset="a new one each time",
    )
    # None leaves it to the model and the context.
    max_tokens: int | None = _row(
        None,
        "end the answer after so many tokens",
        (1, 2**31 - 1),
        _OPENAI + " ollama=num_predict",
        "--max-tokens -n",
        unset="the model decides",
    )
    stop: tuple[str, ...] = _row((), "end the answer before this text", None, _ALL, "--stop")
    # Pairs of a token id and what is added to its logit.
    logit_bias: tuple[tuple[int, float], ...] = _row(
        (), 'what to add to the logits of tokens: `{"1234": -5.0}`', None, _OPENAI
    )
    ignore_eos: bool = _row(
        False, "never end the turn; give `max_tokens`", None, "llamacpp vllm sglang"
    )
    # By the model's own logits, before any sampler; None reports nothing.
    logprobs: int | None = _row(
        None, "log probabilities of so many most likely tokens beside the drawn one", (0, 20), ""
    )
    grammar: str | None = _row(
        None,
        "a GBNF grammar that the answer follows",
        None,
        "llamacpp vllm=structured_outputs.grammar sglang=ebnf",
    )
    # As JSON text. An answer that ends with `FinishReason.STOP` fulfils it.
    json_schema: str | None = _row(
        None,
        "a JSON Schema that the answer fulfils, but for what the header `X-Schema-Ignored` "
        "[names](structured-output.md); `{}` is any JSON",
        None,
        "openai=response_format vllm=response_format sglang=response_format llamacpp",
    )
    regex: str | None = _row(
        None,
        "a regular expression that the whole answer matches",
        None,
        "sglang vllm=structured_outputs.regex",
    )

    def __post_init__(self) -> None:
        for name, row in PARAMETERS.items():
            value = getattr(self, name)
            # `not low <= value <= high` also refuses NaN, which llama.cpp would take and then
            # answer with the last token of the vocabulary.
            if row.low is not None and value is not None and not row.low <= value <= row.high:
                raise InvalidValueError(
                    f"{name} must be between {row.low:.12g} and {row.high:.12g}", name
                )
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidValueError(
                f"at most {MAX_STOP_STRINGS} stop strings are allowed, not {len(self.stop)}", "stop"
            )
        for stop in self.stop:
            if not 0 < len(stop) <= MAX_STOP_CHARS:
                raise InvalidValueError(
                    f"a stop string must have 1 to {MAX_STOP_CHARS} characters, not {len(stop)}",
                    "stop",
                )
        self._check_logit_bias()
        self._check_constraints()

    def _check_logit_bias(self) -> None:
        problem = ""
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            problem = f"logit_bias may name at most {MAX_LOGIT_BIASES} tokens"
        elif len({token for token, _ in self.logit_bias}) < len(self.logit_bias):
            problem = "logit_bias names a token twice"
        for token, bias in self.logit_bias:
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                limits = f"{-MAX_BIAS} and {MAX_BIAS}"
                problem = problem or f"logit_bias of token {token} must be between {limits}"
        if problem:
            raise InvalidValueError(problem, "logit_bias")

    def _check_constraints(self) -> None:
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidValueError(f"{given[0]} and {given[1]} exclude each other", given[1])
        for name in given:
            if len(getattr(self, name)) > MAX_GRAMMAR_CHARS:
                raise InvalidValueError(
                    f"{name} may have at most {MAX_GRAMMAR_CHARS} characters", name
                )
        if given and self.ignore_eos:  # nothing could end the answer
            raise InvalidValueError(
                "ignore_eos cannot be combined with a grammar, a JSON schema or a regex",
                "ignore_eos",
            )

    @property
    def is_constrained(self) -> bool:
        """Whether the answer has to follow a grammar, a JSON schema or a regular expression."""
        return any(getattr(self, name) is not None for name in CONSTRAINTS)


class Parameter(NamedTuple):
    """A row of the table."""

    name: str
    type: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    # What APIs of other programs call it, by API: `openai`, `llamacpp` (llama-server), `vllm`,
    # `sglang`, `ollama`. Empty is the parameter's own name; one with a dot is a field in an object.
    # An API that is missing has no such parameter; a server of this project has those that any has.
    names: Mapping[str, str]
    flags: Sequence[str]  # of its option in the command line, if it has one
    unset: str  # what it means that nothing is said

    @property
    def kind(self) -> Callable[[str], Any]:
        """The type of a value: of one of them, where it can have several."""
        return next(iter(get_args(self.type)), self.type)  # type: ignore[no-any-return]

    def name_in(self, api: str) -> str | None:
        if api == "llmstream":
            return self.name if self.names else None
        name = self.names.get(api)
        return self.name if name == "" else name


# What an answer can have to follow; one of them at most.
CONSTRAINTS = ("grammar", "json_schema", "regex")


_HINTS = get_type_hints(SamplingParams)
PARAMETERS = {
    one.name: Parameter(one.name, _HINTS[one.name], one.default, **one.metadata)
    for one in fields(SamplingParams)
}
