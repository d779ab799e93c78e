"""The families' syntaxes of calls: a row for each, see `pattern` for how they are written."""

# ruff: noqa: RUF001 (DeepSeek's tags have bars of full width)

from collections.abc import Collection, Mapping
from typing import NamedTuple


class Parameters(NamedTuple):
    """How a family writes arguments that are no JSON object."""

    pattern: str  # of one
    between: str = ""
    # What a string stands between: nothing where it is raw; None where it is a JSON string.
    quote: str | None = None
    words: Mapping[str, str] = {}  # for what JSON calls true, false and null
    sorted: bool = False  # by name


class Family(NamedTuple):
    """How a family writes calls: opening, begin, call, then between and call again, and end."""

    name: str
    opening: str  # the tag that tells a call from text; without one it must begin the answer
    call: str
    between: str = ""  # two calls; where it is empty there is one at most
    begin: str = ""
    end: str = ""
    # What proves, behind an opening that is spelled, that it is none of the answer's words.
    evidence: str = " {"
    parameters: Parameters | None = None  # where arguments are no JSON object
    in_template: tuple[str, ...] = ()  # texts that a template of the family has, all of them
    in_vocabulary: tuple[str, ...] = ()  # control tokens that its vocabulary has, all of them
    # Where the reasoning's splitter reads the opening, the character that it gives for it, and
    # those that it gives for control tokens.
    given: str = ""
    given_tokens: Mapping[str, str] = {}

    @property
    def syntax(self) -> str:
        """All that a call can be written with."""
        parts = [self.opening, self.begin, self.call, self.between, self.end]
        if self.parameters:
            parts += [*self.parameters[:2], self.parameters.quote or ""]
        return "\0".join(parts)


_OBJECT = '{ "name" : "%N" , "arguments" : %A }'
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}

GENERIC = Family("generic", "<tool_call>", f" {_OBJECT} </tool_call>", between=" <tool_call>")

# The first that fits is taken.
FAMILIES = (
    Family(
        "harmony",
        "<|channel|>commentary to=functions.",
        "%N⟨<|channel|>commentary⟩ ⟨<|constrain|>⟩⟨json⟩<|message|> %A",
        in_vocabulary=("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>"),
        given="\ufdd5",
        given_tokens={
            "<|channel|>": "\ufdd1",
            "<|message|>": "\ufdd2",
            "<|constrain|>": "\ufdd4",
        },
    ),
    Family(
        "gemma-4",
        "<|tool_call>",
        "call:%N{%A}<tool_call|>",
        between=" <|tool_call>",
        evidence="call:%N{",
        parameters=Parameters("%K:%V", ",", quote='<|"|>', sorted=True),
        in_template=("<|tool_call>",),
    ),
    Family(
        "functiongemma",
        "<start_function_call>",
        "call:%N{%A}<end_function_call>",
        between=" <start_function_call>",
        evidence="call:%N{",
        parameters=Parameters("%K:%V", ",", quote="<escape>", sorted=True),
        in_template=("<start_function_call>",),
    ),
    Family(
        "lfm2",
        "<|tool_call_start|>",
        "%N(%A)",
        between=", ",
        begin="[",
        end="]<|tool_call_end|>",
        evidence="[%N(",
        parameters=Parameters("%K=%V", ", ", words=_PYTHON_WORDS),
        in_template=("<|tool_list_start|>",),
    ),
    Family(
        "kimi-k2",
        "<|tool_calls_section_begin|>",
        " <|tool_call_begin|>functions.%N:%#<|tool_call_argument_begin|> %A <|tool_call_end|>",
        between=" ",
        end=" <|tool_calls_section_end|>",
        evidence=" <|tool_call_begin|>",
        in_template=("<|tool_calls_section_begin|>",),
    ),
    Family(
        "deepseek-r1",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>%N\n```json\n%A\n```<｜tool▁call▁end｜>",
        between=" ",
        end=" <｜tool▁calls▁end｜>",
        evidence="<｜tool▁call▁begin｜>",
        in_template=("<｜tool▁calls▁begin｜>", "```json"),
    ),
    Family(
        "deepseek-v3.1",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>%N<｜tool▁sep｜> %A <｜tool▁call▁end｜>",
        between=" ",
        end=" <｜tool▁calls▁end｜>",
        evidence="<｜tool▁call▁begin｜>",
        in_template=("<｜tool▁calls▁begin｜>",),
    ),
    Family(
        "command-r7b",
        "<|START_ACTION|>",
        ' { "tool_call_id" : "%#" , "tool_name" : "%N" , "parameters" : %A }',
        between=" ,",
        begin=" [",
        end=" ] <|END_ACTION|>",
        evidence=" [",
        in_template=("<|START_ACTION|>",),
    ),
    Family(
        "mistral-small-3.2",
        "[TOOL_CALLS]",
        "%N[CALL_ID]%I[ARGS] %A",
        between=" [TOOL_CALLS]",
        evidence="%N[CALL_ID]",
        in_template=("[TOOL_CALLS]", "[CALL_ID]"),
    ),
    Family(
        "ministral-3",
        "[TOOL_CALLS]",
        "%N[ARGS] %A",
        between=" [TOOL_CALLS]",
        evidence="%N[ARGS]",
        in_template=("[TOOL_CALLS]", "[ARGS]"),
    ),
    Family(
        "mistral-v3",
        "[TOOL_CALLS]",
        ' { "name" : "%N" , "arguments" : %A ⟨ , "id" : "%I"⟩ }',
        between=" ,",
        begin=" [",
        end=" ]",
        evidence=" [",
        in_template=("[TOOL_CALLS]",),
    ),
    Family(
        "granite-3",
        "<|tool_call|>",
        f" {_OBJECT}",
        between=" ,",
        begin=" [",
        end=" ]",
        evidence=" [",
        in_template=("<|start_of_role|>",),
        in_vocabulary=("<|tool_call|>",),
    ),
    Family(
        "phi-4-mini",
        "<|tool_call|>",
        f" {_OBJECT} <|/tool_call|>",
        between=" <|tool_call|>",
        in_template=("<|tool|>",),
    ),
    Family(
        "qwen3-coder",
        "<tool_call>",
        " <function=%N> %A</function> </tool_call>",
        between=" <tool_call>",
        evidence=" <function=",
        parameters=Parameters("<parameter=%K>\n%V\n</parameter> ", quote=""),
        in_template=("<function=", "<parameter="),
    ),
    Family(
        "glm-4",
        "<tool_call>",
        "%N %A</tool_call>",
        between=" <tool_call>",
        evidence="%N⟨\n⟩<",
        parameters=Parameters("<arg_key>%K</arg_key> <arg_value>%V</arg_value> ", quote=""),
        in_template=("<arg_key>",),
    ),
    GENERIC._replace(name="hermes", in_template=("<tool_call>",)),
    Family(
        "llama-3",
        "",
        ' { ⟨"type" : "function" , ⟩"name" : "%N" , "parameters" : %A }',
        evidence=' { ⟨"type" : "function" , ⟩"name" : "%N"',
        in_template=("ipython", '"parameters"'),
    ),
)


def find_family(template_source: str, control: Collection[str]) -> Family:
    """Return the family of a chat template and of the control tokens beside it."""
    for family in FAMILIES:
        named = all(text in template_source for text in family.in_template)
        if named and all(text in control for text in family.in_vocabulary):
            return family
    return GENERIC
