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
from tests.server.fakes import BODY, ask, connect, head, parse, post, serving, talk


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


def chunked(*chunks: bytes) -> bytes:
    top = head(
        "POST", "/token_stream", "Content-Type: application/json", "Transfer-Encoding: chunked"
    )
    return top + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (*chunks, b""))


def typed(content_type: str) -> bytes:
    top = head("POST", "/token_stream", f"Content-Type: {content_type}", "Content-Length: 14")
    return top + BODY


@pytest.mark.parametrize(
    ("data", "status"),
    [
        *((post(body), 400) for body in (b"[" * 99_000, b'{"a":' * 16_000, b'{"a":[' * 40)),
        (post(b"[" * 49_000 + b"]" * 49_000), 400),
        *((post(body), 400) for body in (b"[]", b'"query"', b"null", b"1")),
        *((typed(one), 415) for one in ("text/plain", "multipart/form-data; boundary=x", "")),
        *((typed(one), 200) for one in ("application/json; charset=utf-8", "APPLICATION/JSON")),
        (typed("application/x+json"), 200),
        *((post(BODY.ljust(size)), 413) for size in (100_001, 165_000, 500_000)),
        (post(BODY.ljust(100_000)), 200),
        (chunked(BODY, *[b" " * 9_999] * 11), 413),
        (chunked(BODY, *[b" " * 9_998] * 10), 200),
    ],
)
async def test_a_body_is_taken_or_refused(data: bytes, status: int) -> None:
    async with serving(max_body_bytes=100_000) as served:
        assert (await ask(served, data)).status == status
        assert bool(served.engine.requests) == (status == 200)
        assert (await ask(served, post(BODY))).status == 200


async def test_a_body_that_does_not_come_is_408_and_the_end_of_the_connection() -> None:
    async with serving(body_seconds=0.05) as served:
        assert parse(await talk(served, post(BODY)[:-3])).status == 408


async def test_a_client_is_asked_to_go_on_with_its_body() -> None:
    top, _, body = post(BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
    async with serving() as served:
        reader, writer = await connect(served)
        writer.write(top + b"\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(body)
            assert parse(await reader.read()).body == b"one two three"
        writer.close()
