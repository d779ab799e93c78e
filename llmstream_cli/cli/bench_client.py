"""What `llmstream bench --url` measures: another server, asked as `RemoteEngine` asks it.

Unlike an engine's user, a benchmark counts the pieces of text as they come, thoughts like answers.
"""

import contextlib
from collections.abc import AsyncGenerator

from llmstream_cli.cli.bench_figures import Cost
from llmstream_cli.engines.openai_client import IDLE_SECONDS, MAX_LINE_CHARS, Upstream
from llmstream_cli.engines.openai_format import CHAT, RemoteAnswer, reported_tokens
from llmstream_cli.engines.remote_models import (
    RemoteModel,
    only_model,
    parse_models,
    unlisted_model,
)
from llmstream_cli.errors import one_line


class OpenAIClient:
    """Streams answers of a server that speaks the OpenAI API.

    Args:
        url: where the server is, with or without `/v1` at its end.
        model: the name to ask for, listed or not; None takes the only one that the server has.
        max_tokens: length of an answer at most.
        api_key: sent as a bearer token, never shown.
        idle_seconds: give up when nothing comes for so long.

    Raises:
        InvalidValueError: the URL or the key is none.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        max_tokens: int,
        api_key: str | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._upstream = Upstream(url, api_key=api_key, idle_seconds=idle_seconds)
        self._model = None if model is None else unlisted_model(model)
        self._max_tokens = max_tokens

    async def ready(self) -> str:
        """Return the model's name as one line, asking the server for it if need be.

        Raises:
            EngineError: the server cannot be reached, or names no model.
            InvalidValueError: it names several.
        """
        return one_line((await self._find_model()).name, MAX_LINE_CHARS)

    async def stream(self, prompt: str) -> AsyncGenerator[str | Cost]:
        """Yield the answer's pieces of text as they come and, if it is reported, what it cost.

        Raises:
            LLMStreamError: the server refused, failed, or did not finish.
        """
        body = {
            "model": (await self._find_model()).name,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        answer = RemoteAnswer()
        async with contextlib.aclosing(self._upstream.events(CHAT, body)) as events:
            async for event in events:
                chunk = answer.push(event, seconds=0.0)
                if chunk is not None:
                    yield chunk.text or chunk.reasoning
                tokens = reported_tokens(event)
                if tokens is not None:
                    yield Cost(*tokens)

    async def aclose(self) -> None:
        """Close what connections there are."""
        await self._upstream.aclose()

    async def _find_model(self) -> RemoteModel:
        if self._model is None:
            self._model = only_model(parse_models(await self._upstream.get_json("/v1/models")))
        return self._model
