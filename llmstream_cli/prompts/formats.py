"""The families' prompt formats, for models whose file has no chat template.

Each is the way in which the authors of a family write a conversation down, as Jinja source in the
dialect of `ChatTemplate`: turns, white space and the end of a turn as they were trained with.

Families with turn markers of their own have control tokens, which no message can forge. Those that
mark turns with words (`USER:`, `### Instruction:`) have none; there a stop string ends the turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llmstream_cli.errors import InvalidValueError, did_you_mean


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A way to write a conversation down.

    Attributes:
        name: what it goes by; for a template from a file, the file's name.
        template: Jinja source, see `ChatTemplate`.
        stop: texts that end the model's turn, where no control token does.
    """

    name: str
    template: str
    stop: tuple[str, ...] = ()


def find_format(name: str) -> ChatFormat:
    """Return the format of that name, in upper or lower case.

    Raises:
        InvalidValueError: there is none; the message names a near miss and all there are.
    """
    found = FORMATS.get(name.lower())
    if found is None:
        hint = did_you_mean(name, FORMATS)
        raise InvalidValueError(f"no prompt format is called {name!r}; {hint}")
    return found


# ---- Jinja from its parts: each argument is a Jinja expression for one turn -----------------


def _turns(turn: str, answer: str, *, begin: str = "''") -> str:
    """Write turns of all roles alike, in any order.

    Args:
        turn: one turn, of `message.role` and `message.content`.
        answer: how the model's turn begins.
        begin: what comes first.
    """
    return _template(begin, "messages", f"{{{{- {turn} -}}}}", answer)


def _transcript(
    system: str, user: str, assistant: str, answer: str, *, default_system: str = ""
) -> str:
    """Write turns of each role in its own way, in any order.

    Args:
        system: a system message.
        user: a user's turn.
        assistant: an answer.
        answer: how the next one begins.
        default_system: what stands in for a system message where the first message is none.
    """
    turns = "messages"
    if default_system:
        default = f"[{{'role': 'system', 'content': {default_system!r}}}]"
        turns = f"(messages if messages[0].role == 'system' else {default} + messages)"
    body = (
        f"{{%- if message.role == 'system' -%}}{{{{- {system} -}}}}"
        f"{{%- elif message.role == 'user' -%}}{{{{- {user} -}}}}"
        f"{{%- else -%}}{{{{- {assistant} -}}}}{{%- endif -%}}"
    )
    return _template("''", turns, body, answer)


def _alternating(system: str, user: str, assistant: str, *, begin: str = "''", answer: str) -> str:
    """Write turns that have to alternate, the system message inside the first of them.

    Args:
        system: what goes before the text of the first turn, of `messages[0].content`.
        user: a user's turn, of `message.content` and of `system`, which is empty after the first.
        assistant: an answer.
        begin: what comes first.
        answer: how the next answer begins.
    """
    head = (
        "{%- set has_system = messages and messages[0].role == 'system' -%}"
        "{%- set turns = messages[1:] if has_system else messages -%}"
    )
    body = (
        "{%- if message.role != ('assistant' if loop.index0 % 2 else 'user') -%}"
        "{{- raise_exception('after a system message, if any, the roles must alternate: "
        "user, assistant, user, ...') -}}{%- endif -%}"
        f"{{%- set system = {system} if has_system and loop.first else '' -%}}"
        f"{{{{- {user} if message.role == 'user' else {assistant} -}}}}"
    )
    return head + _template(begin, "turns", body, answer)


def _template(begin: str, turns: str, body: str, answer: str) -> str:
    return (
        f"{{{{- {begin} -}}}}"
        f"{{%- for message in {turns} -%}}{body}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{{{{- {answer} -}}}}{{%- endif -%}}"
    )


# ---- the families ---------------------------------------------------------------------------

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_PUFFIN_SYSTEM = (
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

FORMATS: Mapping[str, ChatFormat] = {
    chat_format.name: chat_format
    for chat_format in (
        # OpenAI's ChatML; SmolLM2, Qwen, LFM2 and many others.
        ChatFormat(
            "chatml",
            _turns(
                r"'<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n'",
                r"'<|im_start|>assistant\n'",
            ),
        ),
        # Meta's `llama/generation.py`: the beginning of the text before each user's turn.
        ChatFormat(
            "llama2",
            _alternating(
                r"'<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n'",
                "bos_token + '[INST] ' + (system + message.content) | trim + ' [/INST]'",
                "' ' + message.content | trim + ' ' + eos_token",
                answer="''",
            ),
        ),
        ChatFormat(
            "llama3",
            _turns(
                r"'<|start_header_id|>' + message.role + '<|end_header_id|>\n\n'"
                r" + message.content | trim + '<|eot_id|>'",
                r"'<|start_header_id|>assistant<|end_header_id|>\n\n'",
                begin="bos_token",
            ),
        ),
        # v0.1 to v0.3. What the model wrote after `[/INST]` began with a space of its own.
        ChatFormat(
            "mistral",
            _alternating(
                r"messages[0].content + '\n\n'",
                "'[INST] ' + system + message.content + ' [/INST]'",
                "message.content + eos_token",
                begin="bos_token",
                answer="''",
            ),
        ),
        # 2 and 3: the roles are `user` and `model`.
        ChatFormat(
            "gemma",
            _alternating(
                r"messages[0].content + '\n\n'",
                r"'<start_of_turn>user\n' + system + message.content | trim + '<end_of_turn>\n'",
                r"'<start_of_turn>model\n' + message.content | trim + '<end_of_turn>\n'",
                begin="bos_token",
                answer=r"'<start_of_turn>model\n'",
            ),
        ),
        ChatFormat(
            "phi3",
            _turns(
                r"'<|' + message.role + '|>\n' + message.content + '<|end|>\n'",
                r"'<|assistant|>\n'",
            ),
        ),
        ChatFormat(
            "phi4",
            _turns(
                "'<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>'",
                "'<|im_start|>assistant<|im_sep|>'",
            ),
        ),
        ChatFormat(
            "phi4-mini",
            _turns(
                "'<|' + message.role + '|>' + message.content + '<|end|>'",
                "'<|assistant|>'",
            ),
        ),
        # TinyLlama as well.
        ChatFormat(
            "zephyr",
            _turns(
                r"'<|' + message.role + '|>\n' + message.content + eos_token + '\n'",
                r"'<|assistant|>\n'",
            ),
        ),
        ChatFormat(
            "granite",
            _turns(
                "'<|start_of_role|>' + message.role + '<|end_of_role|>' + message.content"
                r" + '<|end_of_text|>\n'",
                "'<|start_of_role|>assistant<|end_of_role|>'",
            ),
        ),
        # FastChat's `vicuna_v1.1`; here an end-of-sequence token ends the turn.
        ChatFormat(
            "vicuna",
            _transcript(
                "message.content + ' '",
                "'USER: ' + message.content + ' '",
                "'ASSISTANT: ' + message.content | trim + eos_token",
                "'ASSISTANT:'",
                default_system=_VICUNA_SYSTEM,
            ),
        ),
        # Puffin-Phi v2: the same words, each on a line of its own.
        ChatFormat(
            "puffin",
            _transcript(
                r"message.content + '\n'",
                r"'USER: ' + message.content + '\n'",
                r"'ASSISTANT: ' + message.content | trim + '\n'",
                "'ASSISTANT:'",
                default_system=_PUFFIN_SYSTEM,
            ),
            stop=("\nUSER:",),
        ),
        # Stanford Alpaca's headings, without its preamble; Hermes.
        ChatFormat(
            "alpaca",
            _transcript(
                r"message.content + '\n\n'",
                r"'### Instruction:\n' + message.content + '\n\n'",
                r"'### Response:\n' + message.content | trim + '\n\n'",
                r"'### Response:\n'",
            ),
            # Of two that end together the longer wins, so that no empty line is left behind.
            stop=("\n\n### Instruction:", "\n### Instruction:"),
        ),
        # phi-2's "QA format".
        ChatFormat(
            "instruct",
            _transcript(
                r"message.content + '\n'",
                r"'Instruct: ' + message.content + '\n'",
                r"'Output: ' + message.content | trim + '\n'",
                "'Output:'",
            ),
            stop=("\nInstruct:",),
        ),
    )
}
