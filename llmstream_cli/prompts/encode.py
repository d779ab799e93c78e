"""Messages to token ids, so that no message can forge a control token.

A rendered prompt is one string in which the template's `<|im_end|>` and a user's look alike. Every
message is therefore tried alone first. Where reading it with and without control tokens makes no
difference, which is nearly always, the prompt is tokenized as a plain render would be. Otherwise
the template is rendered with the message's dangerous characters under a mask: the control tokens
found then are the template's own, and the text between them is tokenized as text, mask removed.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from llmstream_cli.errors import ContextLengthError, PromptError
from llmstream_cli.prompts.messages import Ending, Message, Tool, ToolCall
from llmstream_cli.prompts.template import ChatTemplate, chat_variables
from llmstream_cli.prompts.tokenizer import ControlToken, Tokenizer
from llmstream_cli.prompts.tool_history import AS_TEXT, ToolStyle, prepare

# Masks come from a plane of Unicode that no standard assigns.
_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_SLICE_CHARS = 16 * 1024
_TOKENS_OF_A_CUT = 64
_Render = Callable[[Sequence[Message], Sequence[Tool]], str]
_C_SPACE = " \t\n\v\f\r"  # what C's isspace, and so llama.cpp, takes for white space


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    ctx_size: int,
    tools: Sequence[Tool] = (),
    thinking: bool | None = None,  # what the template is told of reasoning; None tells nothing
    ending: Ending = "turn",
) -> list[int]:
    """Render messages for the assistant to continue, and tokenize them.

    Returns:
        Token ids, the model's leading token included once; fewer than `ctx_size`, which is for
        prompt and answer together.

    Raises:
        ContextLengthError: there would be more.
        PromptError: the template refuses the messages, or leaves one out.
    """
    _refuse_what_cannot_fit(tokenizer, [message.content for message in messages], ctx_size)
    style = AS_TEXT
    if tools or any(message.tool_calls or message.role == "tool" for message in messages):
        style, knows_form = _find_style(tokenizer, template)
        messages = prepare(messages, tools, style, knows_form=knows_form)
    listed = tools if style.lists_tools else ()
    shape = template.shape(messages, opens_turn=ending == "turn", style=style)
    messages = shape.arrange(messages)

    def render(messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        variables = chat_variables(
            messages,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            typed=shape.typed,
            opens_turn=ending == "turn",
            tools=tools,
            style=style,
        )
        if thinking is not None:
            # Qwen3 and most others ask by the first name, DeepSeek V3.1 and Granite by the second.
            variables |= {"enable_thinking": thinking, "thinking": thinking}
        return template.render(variables)

    if ending == "message":
        render = partial(_render_open, render)
    if _names_control_token(tokenizer, [*_texts(messages, listed)]):
        tokens = list(_encode_masked(tokenizer, render, messages, listed))
    else:
        tokens = tokenizer.tokenize(render(messages, listed), special=True)
    tokens = _with_leading_token(tokenizer, tokens)
    if not tokens:
        raise PromptError("the chat template makes an empty prompt of these messages")
    return check_tokens(tokens, ctx_size=ctx_size)


def encode_text(tokenizer: Tokenizer, text: str, *, ctx_size: int) -> list[int]:
    """Tokenize a prompt that its author wrote as the model is to see it, control tokens and all.

    As `encode_chat`.
    """
    _refuse_what_cannot_fit(tokenizer, [text], ctx_size)
    tokens = _with_leading_token(tokenizer, tokenizer.tokenize(text, special=True))
    return check_tokens(tokens, ctx_size=ctx_size)


def check_tokens(tokens: list[int], *, ctx_size: int) -> list[int]:
    """Return the tokens of a prompt that fits.

    Raises:
        ContextLengthError: there are more than the context holds beside one token of answer.
        PromptError: there are none.
    """
    if not tokens:
        raise PromptError("the prompt is empty")
    if len(tokens) >= ctx_size:
        raise ContextLengthError(len(tokens), ctx_size)
    return tokens


def _with_leading_token(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    leading = tokenizer.leading_token
    if leading is None or tokens[:1] == [leading]:
        return tokens
    return [leading, *tokens]


def _refuse_what_cannot_fit(tokenizer: Tokenizer, contents: Sequence[str], ctx_size: int) -> None:
    """Give up on messages that are far too long after counting as much as would fit.

    A cut between two slices can split a word and so add a few tokens, which are not counted.
    """
    count = 0
    for content in contents:
        for start in range(0, len(content), _SLICE_CHARS):
            part = content[start : start + _SLICE_CHARS]
            count += max(0, len(tokenizer.tokenize(part, special=False)) - _TOKENS_OF_A_CUT)
            if count >= ctx_size:
                raise ContextLengthError(count, ctx_size, at_least=True)


def _find_style(tokenizer: Tokenizer, template: ChatTemplate) -> tuple[ToolStyle, bool]:
    """Return how a template takes tools, and whether its model has a form of its own for calls.

    Calls of a form that nobody knows could not be read: there the model is told of another.
    """
    from llmstream_cli.prompts.tools.families import GENERIC, find_family

    control = {token.text for token in tokenizer.control_tokens()}
    knows_form = find_family(template.source, control) is not GENERIC
    style = template.tool_style if knows_form else AS_TEXT
    return style, knows_form and style.writes_calls


def _render_open(render: _Render, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
    """Render messages without what the template writes behind the last of them."""
    *before, last = messages
    used = set("".join(_texts(messages, tools)))
    mark = next(chr(code) for code in reversed(_PRIVATE_USE) if chr(code) not in used)
    opened = replace(last, content=last.content + mark)
    rendered, found, _ = render([*before, opened], tools).rpartition(mark)
    if not found:
        raise PromptError("the chat template cannot leave the last message open to be continued")
    return rendered


def _texts(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[str]:
    """Yield every text that others wrote, those in JSON as well."""
    for message in messages:
        yield from (message.content, message.reasoning, message.tool_call_id, message.tool_name)
        for call in message.tool_calls:
            yield from (call.name, call.id, *_strings(json.loads(call.arguments)))
    for tool in tools:
        yield from (tool.name, tool.description, *_strings(json.loads(tool.parameters)))


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)


def _translate_message(message: Message, mask: Mapping[int, str]) -> Message:
    return Message(
        message.role,
        message.content.translate(mask),
        message.reasoning.translate(mask),
        tuple(
            ToolCall(
                call.name.translate(mask),
                _translate_json(call.arguments, mask),
                call.id.translate(mask),
            )
            for call in message.tool_calls
        ),
        message.tool_call_id.translate(mask),
        message.tool_name.translate(mask),
    )


def _translate_tool(tool: Tool, mask: Mapping[int, str]) -> Tool:
    parameters = _translate_json(tool.parameters, mask)
    return Tool(tool.name.translate(mask), tool.description.translate(mask), parameters)


def _translate_json(text: str, mask: Mapping[int, str]) -> str:
    def translate(value: Any) -> Any:
        match value:
            case str():
                return value.translate(mask)
            case dict():
                return {translate(key): translate(item) for key, item in value.items()}
            case list():
                return [translate(item) for item in value]
        return value

    return json.dumps(translate(json.loads(text)), ensure_ascii=False)


def _names_control_token(tokenizer: Tokenizer, contents: Sequence[str]) -> bool:
    """Tell whether a message, or two in a row together, would be read as a control token."""
    for text in {*contents, "".join(contents)}:
        plain = tokenizer.tokenize(text, special=False)
        if plain != tokenizer.tokenize(text, special=True) or any(map(tokenizer.is_control, plain)):
            return True
    return False


def _encode_masked(
    tokenizer: Tokenizer,
    render: _Render,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
) -> Iterator[int]:
    control = tokenizer.control_tokens()
    mask = _mask(control, "".join(_texts(messages, tools)))
    masked = [_translate_message(message, mask) for message in messages]
    masked_tools = [_translate_tool(tool, mask) for tool in tools]
    unmask = {ord(substitute): character for character, substitute in mask.items()}
    for part in _split(render(masked, masked_tools), control):
        if isinstance(part, ControlToken):
            yield part.id
        else:
            yield from _tokenize_as_text(tokenizer, part.translate(unmask), control)


def _tokenize_as_text(
    tokenizer: Tokenizer, text: str, control: Sequence[ControlToken]
) -> list[int]:
    """Tokenize a text in which no control token is to be read.

    Some vocabularies read them in any text: then each is cut in two behind its first character.
    """
    tokens = tokenizer.tokenize(text, special=False)
    if any(map(tokenizer.is_control, tokens)):
        cuts = [0, *(match.start() + 1 for match in _pattern(control).finditer(text)), len(text)]
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        tokens = [token for part in pieces for token in tokenizer.tokenize(part, special=False)]
    if any(map(tokenizer.is_control, tokens)):
        raise PromptError("a message holds text that this model can only read as a command")
    return tokens


def _mask(control: Sequence[ControlToken], content: str) -> dict[int, str]:
    """Map the characters that control tokens begin and end with to ones that are not in use.

    With both ends masked, no control token can begin or end inside a message.
    """
    used = set(content)
    unused = [chr(code) for code in _PRIVATE_USE if chr(code) not in used]
    ends = sorted({end for token in control for end in (token.text[0], token.text[-1])})
    if len(unused) < len(ends):
        raise PromptError("a message uses up the characters that would keep it apart from commands")
    return dict(zip(map(ord, ends), unused, strict=False))


def _split(text: str, control: Sequence[ControlToken]) -> Iterator[str | ControlToken]:
    """Cut a text at its control tokens, with the white space rules of llama.cpp."""
    by_text = {token.text: token for token in control}
    pieces = _pattern(control).split(text)  # at odd places stand the control tokens
    for index, piece in enumerate(pieces):
        if index % 2:
            yield by_text[piece]
            continue
        strips_left = index > 0 and by_text[pieces[index - 1]].strips_right
        strips_right = index + 1 < len(pieces) and by_text[pieces[index + 1]].strips_left
        trimmed = piece.lstrip(_C_SPACE) if strips_left else piece
        yield trimmed.rstrip(_C_SPACE) if strips_right else trimmed


def _pattern(control: Sequence[ControlToken]) -> re.Pattern[str]:
    """Match any control token; where two begin together, the longer."""
    texts = sorted({token.text for token in control}, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, texts))})")
