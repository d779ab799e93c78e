"""Bodies: what is JSON that all parsers read alike, and what is refused before that."""

import asyncio
import json

import pytest

from llmstream_cli.errors import RequestError
from llmstream_cli.server.body import (
    MAX_JSON_DEPTH,
    MAX_JSON_VALUES,
    MAX_TOKEN_IDS,
    parse_json,
)
from tests.server.fakes import ask, connect, head, parse, post, serving, talk

NESTED: list[tuple[bytes, int]] = [
    (b"[" * 100_000, 400),
    (b'{"a":' * 100_000, 400),
    (b'{"a":[' * 40 + b"]}" * 40, 400),
    (b"[" * 500_000 + b"]" * 500_000, 400),
]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is not JSON"),
        (b'{"a": NaN}', "has NaN"),
        (b'{"a": 1e400}', "has 1e400"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of too many digits"),
        (b'{"a": 1, "b": 2, "a": 3}', "names 'a' twice"),
        (b'{"a": "\xff"}', "is not UTF-8 text: byte 7"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": "\xed\xa0\x80"}', "is not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON"),
    ],
)
def test_what_parsers_disagree_about_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        parse_json(data)


@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1])
def test_the_depth_is_bounded(levels: int) -> None:
    data = b"[" * levels + b"]" * levels
    if levels > MAX_JSON_DEPTH:
        with pytest.raises(RequestError, match="nested deeper than 64 levels"):
            parse_json(data)
    else:
        parse_json(data)


FEW = MAX_JSON_VALUES - 10


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("1", FEW),
        ('"x"', FEW),
        ("{}", FEW // 2),
        ("[[[]]]", FEW // 4),
        ('{"a":"b","c":[null]}', FEW // 4),
    ],
)
def test_the_number_of_values_is_bounded_whatever_they_are(unit: str, most: int) -> None:
    def body(count: int) -> bytes:
        return f'{{"any": [{",".join([unit] * count)}]}}'.encode()

    assert len(parse_json(body(most))["any"]) == most
    for count in (most + 100, 10 * most):
        with pytest.raises(RequestError, match="the body has more than"):
            parse_json(body(count))


def test_the_number_of_names_is_bounded() -> None:
    names = {f"x{index}": 0 for index in range(MAX_JSON_VALUES + 100)}
    for body in (names, {"any": names}, {"any": [names]}):
        with pytest.raises(RequestError, match=f"more than {MAX_JSON_VALUES} values"):
            parse_json(json.dumps(body).encode())


def test_text_counts_as_one_value_whatever_is_in_it() -> None:
    text = '[{,"' * 100_000
    assert parse_json(json.dumps({"query": text}).encode()) == {"query": text}


@pytest.mark.parametrize("split", [1, 4])
def test_as_many_token_ids_are_taken_as_a_long_context_holds(split: int) -> None:
    ids = [[7] * (MAX_TOKEN_IDS // split)] * split
    body = {"prompt": ids[0] if split == 1 else ids}
    assert parse_json(json.dumps(body).encode()) == body
    with pytest.raises(RequestError, match="values"):
        parse_json(json.dumps({"stop": ids}).encode())
    with pytest.raises(RequestError, match="values"):
        parse_json(json.dumps({"prompt": ids * 2}).encode())


# ---- over a socket --------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "status"), NESTED)
async def test_deep_nesting_is_400(body: bytes, status: int) -> None:
    async with serving() as served:
        assert (await ask(served, post(body))).status == status
        assert (await ask(served, post(b'{"query": "?"}'))).status == 200


@pytest.mark.parametrize("body", [b"[]", b'"query"', b"null", b"1"])
async def test_a_body_that_is_no_object_is_400(body: bytes) -> None:
    async with serving() as served:
        assert (await ask(served, post(body))).status == 400


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
async def test_another_content_type_is_415(content_type: str) -> None:
    body = b'{"query": "?"}'
    request = head("POST", "/token_stream", f"Content-Type: {content_type}", "Content-Length: 14")
    async with serving() as served:
        reply = await ask(served, request + body)
    assert reply.status == 415
    assert b"application/json" in reply.body


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
async def test_json_has_several_names(content_type: str) -> None:
    request = head("POST", "/token_stream", f"Content-Type: {content_type}", "Content-Length: 14")
    async with serving() as served:
        assert (await ask(served, request + b'{"query": "?"}')).status == 200


@pytest.mark.parametrize("size", [1001, 3999, 4001, 500_000])
async def test_a_body_that_is_too_long_is_413_whether_it_is_read_or_not(size: int) -> None:
    body = json.dumps({"query": "x"}).encode().ljust(size)
    async with serving(max_body_bytes=1000) as served:
        reply = await ask(served, post(body))
        assert reply.status == 413
        assert not served.engine.requests


async def test_a_chunked_body_has_the_same_bound() -> None:
    top = head(
        "POST",
        "/token_stream",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "Connection: close",
    )
    chunks = b"64\r\n" + b" " * 100 + b"\r\n"
    async with serving(max_body_bytes=1000) as served:
        assert parse(await talk(served, top + chunks * 11 + b"0\r\n\r\n")).status == 413
        fits = b'e\r\n{"query": "?"}\r\n' + chunks * 9 + b"0\r\n\r\n"
        assert parse(await talk(served, top + fits)).status == 200


async def test_a_body_that_does_not_come_is_408_and_the_end_of_the_connection() -> None:
    async with serving(body_seconds=0.05) as served:
        received = await talk(served, post(b'{"query": "?"}')[:-3])
    assert parse(received).status == 408


async def test_a_client_is_asked_to_go_on_with_its_body() -> None:
    top, _, body = post(b'{"query": "?"}', "Expect: 100-continue").partition(b"\r\n\r\n")
    async with serving() as served:
        reader, writer = await connect(served)
        writer.write(top + b"\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(body)
            assert parse(await reader.read()).body == b"one two three"
        writer.close()
