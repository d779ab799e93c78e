"""Probes, metrics, the API's description and the pages."""

import json
import logging
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmstream_cli.api import EngineMetrics, EngineState, EngineStatus
from llmstream_cli.errors import EngineDiedError
from llmstream_cli.server.app import create_app
from llmstream_cli.server.http.exchange import JsonFormatter
from tests.server.fakes import (
    FakeEngine,
    Reply,
    ask,
    connect,
    fail_with,
    head,
    new_context,
    post,
    serving,
    until,
)

BODY = b'{"query": "?"}'


async def get(path: str, engine: FakeEngine | None = None, *headers: str) -> Reply:
    async with serving(engine) as served:
        return await ask(served, head("GET", path, *headers))


# ---- health and readiness -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (EngineState.READY, 200),
        (EngineState.LOADING, 503),
        (EngineState.RESTARTING, 503),
        (EngineState.FAILED, 503),
        (EngineState.CLOSED, 503),
    ],
)
async def test_ready_tells_the_engines_state(state: EngineState, status: int) -> None:
    engine = FakeEngine(status=EngineStatus(state, "why"))
    reply = await get("/ready", engine)
    assert reply.status == status
    assert json.loads(reply.body) == {
        "status": state,
        "reason": "why" if status != 200 else "",
        "models": {"fake": state},
        "ctx_size": 1024 if status == 200 else None,
    }
    assert (await get("/health", engine)).status == 200


async def test_a_server_that_drains_is_not_ready_and_takes_nothing() -> None:
    async with serving() as served:
        served.context.draining = True
        ready = await ask(served, head("GET", "/ready"))
        refused = await ask(served, post(BODY))
    assert (ready.status, json.loads(ready.body)["status"]) == (503, "draining")
    assert refused.status == 503
    assert "retry-after" in refused.headers


async def test_head_has_the_headers_and_no_body() -> None:
    async with serving() as served:
        for path in ("/", "/health", "/openapi.json"):
            reply = await ask(served, head("HEAD", path))
            assert (reply.status, reply.body) == (200, b"")
        assert (await ask(served, head("HEAD", "/token_stream"))).status == 405
        assert not served.engine.requests


async def test_what_is_not_there_is_404_and_a_wrong_method_405() -> None:
    async with serving() as served:
        missing = await ask(served, head("GET", "/nowhere"))
        wrong = await ask(served, head("GET", "/token_stream"))
    assert json.loads(missing.body)["error"]["message"] == (
        "there is no route /nowhere; see /docs for those there are"
    )
    assert (missing.status, wrong.status) == (404, 405)
    assert "POST" in wrong.headers["allow"]


async def test_an_error_of_ollamas_routes_has_ollamas_shape() -> None:
    reply = await get("/api/nowhere")
    assert json.loads(reply.body) == {
        "error": "there is no route /api/nowhere; see /docs for those there are"
    }


# ---- metrics --------------------------------------------------------------------------------


async def test_the_metrics_count_requests_and_ask_the_engine() -> None:
    engine = FakeEngine(metrics=EngineMetrics(slots=4, running=2, generated_tokens=99, restarts=1))
    async with serving(engine) as served:
        await ask(served, post(BODY))
        await ask(served, post(b"{}"))
        await ask(served, head("GET", "/random-1"))
        await ask(served, head("GET", "/random-2"))
        reply = await ask(served, head("GET", "/metrics"))
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }
    assert values["llmstream_requests_total", "/token_stream", "200", "complete", "fake"] == 1
    assert values["llmstream_requests_total", "", "/token_stream", "422", "complete"] == 1
    assert values["llmstream_requests_total", "", "404", "complete", "unmatched"] == 2
    assert values["llmstream_first_token_seconds_count", "fake"] == 1
    assert values["llmstream_token_gap_seconds_count", "fake"] == 2
    assert values["llmstream_engine_running", "fake"] == 2
    assert values["llmstream_engine_generated_tokens_total", "fake"] == 99
    assert values["llmstream_engine_restarts_total", "fake"] == 1


# ---- the log --------------------------------------------------------------------------------


async def logged(data: bytes, engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, "llmstream_cli.access")
    async with serving(engine) as served:
        await ask(served, data)
    return [record.getMessage() for record in caplog.records if record.name.endswith("access")]


async def test_a_request_has_one_line_with_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await logged(post(BODY, "X-Request-Id: my-id"), FakeEngine(), caplog)
    pattern = r"POST /token_stream 200 complete \d+\.\d{3}s 7\+3 tokens fake 127\.0\.0\.1 my-id"
    assert re.fullmatch(pattern, line)


async def test_a_response_that_was_cut_says_so(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await logged(post(BODY), fail_with(EngineDiedError("x"), "one"), caplog)
    assert " 200 cut " in line


async def test_a_client_that_left_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmstream_cli.access")
    engine = FakeEngine()
    engine.gate.clear()
    async with serving(engine) as served:
        _, writer = await connect(served)
        writer.write(post(BODY))
        await until(lambda: engine.requests)
        writer.close()
        await until(lambda: "499 left" in caplog.text)


async def test_a_path_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = await logged(head("GET", "/%0aGET%20/%1b[2J"), FakeEngine(), caplog)
    assert line.startswith("GET /%0aGET%20/%1b[2J 404 ")


async def test_json_lines_hold_the_same(caplog: pytest.LogCaptureFixture) -> None:
    await logged(post(BODY, "X-Request-Id: my-id"), FakeEngine(), caplog)
    record = next(record for record in caplog.records if record.name.endswith("access"))
    line = json.loads(JsonFormatter().format(record))
    assert line["method"] == "POST"
    assert line["status"] == 200
    assert (line["prompt_tokens"], line["generated_tokens"]) == (7, 3)
    assert line["request_id"] == "my-id"


def test_json_lines_hold_tracebacks() -> None:
    try:
        raise RuntimeError("a\nbug")
    except RuntimeError as error:
        exc_info = (RuntimeError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed: %s", ("why",), exc_info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "a\\nbug" in line
    assert json.loads(line)["message"] == "failed: why"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<script>"])
async def test_an_indecent_request_id_is_replaced(given: str) -> None:
    reply = await get("/health", None, f"X-Request-Id: {given}")
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


# ---- the description ------------------------------------------------------------------------


async def test_the_description_has_every_route_of_the_application() -> None:
    described = json.loads((await get("/openapi.json")).body)["paths"]
    pages = {"/", "/docs", "/static/<name>", "/openapi.json"}
    rules = create_app(new_context(FakeEngine())).url_map.iter_rules()
    routes = {
        re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule) for rule in rules if rule.rule not in pages
    }
    assert set(described) == routes


async def test_every_reference_of_the_description_leads_somewhere() -> None:
    text = (await get("/openapi.json")).body.decode()
    schemas = json.loads(text)["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/(\w+)"', text)
    assert set(references) <= set(schemas)
    assert "TokenStreamRequest" in schemas
    assert schemas["TokenStreamRequest"]["properties"]["query"]["description"]
