"""The API's description is true: what it allows is answered, what it does not is refused."""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.server.fakes import FakeEngine, serving

GENERATING = {"/token_stream", "/v1/chat/completions", "/v1/completions", "/api/chat"}
GENERATING |= {"/api/generate", "/v1/responses", "/v1/messages"}

# What depends on several fields, and the description says in words alone.
ACROSS_FIELDS = re.compile(
    r"exclude each other|cannot be combined|are the same with two values|beside the one in messages"
    r"|needs messages|needs a last message|best_of must be the same as n|prompt and n ask for more"
    r"|names a token twice|it is not JSON"  # as `1` and `01`; a schema may be a text
    r"|which is not among the tools|so is another tool's|there are no tools|tools to choose from"
    r"|has nothing that the model reads|the model's vectors have|which belongs to messages of"
    r"|response_format\.\w+(\.schema)? (is missing|must be a string)"
)
EXAMPLES = 40
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def schema() -> Iterator[schemathesis.schemas.BaseSchema]:
    """The description of a server that runs on a thread of its own."""
    loop = asyncio.new_event_loop()
    ready: asyncio.Future[str] = loop.create_future()
    stop = asyncio.Event()

    async def run() -> None:
        async with serving(FakeEngine(), contexts={"sql": "You know SQL."}) as served:
            ready.set_result(served.url)
            await stop.wait()

    async def wait() -> str:
        return await ready

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    url = asyncio.run_coroutine_threadsafe(wait(), loop).result(60)
    yield schemathesis.openapi.from_url(f"{url}/openapi.json")
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def try_out(schema: schemathesis.schemas.BaseSchema, mode: GenerationMode) -> Counter[Any]:
    """Send requests to all operations, check the responses, and count them by path and status."""
    seen: Counter[Any] = Counter()
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if mode.is_negative and operation.method == "get":
            continue  # nothing about these can be wrong, but the name of what there is not

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: schemathesis.Case[Any]) -> None:
            response = case.call()
            path = case.operation.path
            seen[path, response.status_code] += 1
            if mode.is_positive and response.status_code == 422:
                error = response.json()["error"]
                assert ACROSS_FIELDS.search(error if isinstance(error, str) else error["message"])
            else:
                case.validate_response(response)

        run()
    return seen


def test_what_the_description_allows_is_answered(schema: schemathesis.schemas.BaseSchema) -> None:
    seen = try_out(schema, GenerationMode.POSITIVE)
    for path in GENERATING:
        assert seen[path, 200] > EXAMPLES / 4, seen


def test_what_the_description_forbids_is_refused(schema: schemathesis.schemas.BaseSchema) -> None:
    seen = try_out(schema, GenerationMode.NEGATIVE)
    assert {path for path, _ in seen} >= GENERATING
    assert {status for _, status in seen} <= {400, 404, 422}


def test_streams_and_errors_are_described(schema: schemathesis.schemas.BaseSchema) -> None:
    paths = schema.raw_schema["paths"]
    streams = {"/v1": "text/event-stream; charset=utf-8", "/api": "application/x-ndjson"}
    for path in GENERATING - {"/token_stream"}:
        replies = paths[path]["post"]["responses"]
        content = replies["200"]["content"]
        assert set(content) == {"application/json", streams[path[: path.index("/", 1)]]}
        assert {"400", "404", "408", "413", "415", "422", "429", "500", "503", "504", "507"} <= {
            *replies
        }
    for path in ("/v1/models/{name}", "/requests/{request_id}"):
        assert "404" in paths[path]["get"]["responses"]
