"""Whatever JSON a dialect is sent, it makes requests of it or refuses it in a line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from llmstream_cli.api import SamplingParams
from llmstream_cli.errors import InvalidValueError
from llmstream_cli.server.dialects.anthropic_request import MessagesRequest
from llmstream_cli.server.dialects.ollama import ChatRequest, GenerateRequest
from llmstream_cli.server.dialects.ollama_models import ShowRequest
from llmstream_cli.server.dialects.openai_chat import ChatCompletionRequest
from llmstream_cli.server.dialects.openai_completions import CompletionRequest

# Names and values that mean something somewhere, so that bodies get past the first check.
WORDS = st.sampled_from(
    ["", "1", "json", "text", "json_schema", "user", "assistant", "tool", "none", "yes", "5"]
)
NUMBERS = st.sampled_from([0, 1, -1, -2, 0.5, 2**31, 2**63, 10**400, -(10**400), 1e308])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=3)
KEYS = st.sampled_from(
    ["type", "text", "role", "content", "schema", "json_schema", "1", "stop", "seed", "num_predict"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
TURNS = st.lists(st.dictionaries(KEYS, SCALARS, max_size=3) | VALUES, max_size=3)


def make(type_: type[BaseModel], body: dict[str, Any]) -> None:
    parsed = type_.model_validate(body)
    if isinstance(parsed, ChatCompletionRequest | CompletionRequest):
        assert parsed.generation_requests(SamplingParams())
    elif isinstance(parsed, ChatRequest | GenerateRequest | MessagesRequest):
        parsed.generation_request(SamplingParams())


@pytest.mark.parametrize(
    "type_",
    [
        MessagesRequest,
        ChatCompletionRequest,
        CompletionRequest,
        ChatRequest,
        GenerateRequest,
        ShowRequest,
    ],
)
@given(data=st.data())
def test_it_is_taken_or_refused(type_: type[BaseModel], data: st.DataObject) -> None:
    valid = {"messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello"}
    names = st.sampled_from(sorted(type_.model_fields))
    odd = data.draw(st.dictionaries(names, VALUES, max_size=3), label="body")
    if data.draw(st.booleans()):
        odd["messages"] = data.draw(TURNS)
    try:
        make(type_, {**valid, **odd})
    except ValidationError:
        pass
    except InvalidValueError as error:
        assert "\n" not in str(error)  # noqa: PT017  (only where it is one)
