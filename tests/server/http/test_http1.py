"""What of HTTP/1.1 is refused, on bytes alone: shapes that another server could read otherwise."""

from typing import Any

import h11
import pytest

from llmstream_cli.server.http.http1 import MAX_HEAD_BYTES, StrictConnection

BODY = b'{"query": "?"}'
ENCODED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 14\r\n"
POST = b"POST /token_stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
PROBE = GET + b"\r\n"

# By the status that each is answered with.
HEADS = {
    400: {
        "length and encoding": POST + LENGTH + ENCODED + b"\r\n" + CHUNKED,
        "encoding and length": POST + ENCODED + b"Content-Length: 4\r\n\r\n" + CHUNKED,
        "two equal lengths": POST + LENGTH * 2 + b"\r\n" + BODY,
        "two lengths": POST + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY,
        "a list of lengths": POST + b"Content-Length: 14, 14\r\n\r\n" + BODY,
        "a signed length": POST + b"Content-Length: +14\r\n\r\n" + BODY,
        "a hexadecimal length": POST + b"Content-Length: 0xe\r\n\r\n" + BODY,
        "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
        "a control in an encoding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
        "a folded header": POST + b"Content-Length:\r\n 14\r\n\r\n" + BODY,
        "bare line feeds": POST.replace(b"\r\n", b"\n") + b"Content-Length: 14\n\n" + BODY,
        "one bare line feed": POST + b"X-A: b\n" + LENGTH + b"\r\n" + BODY,
        "a bare carriage return": POST + b"X-A: b\r" + LENGTH + b"\r\n" + BODY,
        "a NUL": POST + b"X-A: \x00\r\n" + LENGTH + b"\r\n" + BODY,
        "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + ENCODED + b"\r\n" + CHUNKED,
        "an absolute target": GET.replace(b"/health", b"http://evil.example/") + b"\r\n",
        "no path": GET.replace(b"/health", b"*") + b"\r\n",
        "a tunnel": b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "a line feed before": b"\n" + PROBE,
        "a carriage return before": b"\r" + PROBE,
        "a space before": b" " + PROBE,
        "no version": b"GET /\r\n\r\n",
        "no host": b"GET / HTTP/1.1\r\n\r\n",
        "two hosts": GET + b"Host: localhost\r\n\r\n",
        "no colon": GET + b"Nonsense\r\n\r\n",
    },
    414: {
        "a line without end": b"GET /" + b"x" * 40_000,
        "a long target": b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    },
    431: {
        "a head without end": GET + b"X: " + b"x" * 40_000,
        "a long header": GET + b"X: " + b"x" * 32_750 + b"\r\n\r\n",
        "many headers": GET + b"X: x\r\n" * 6_000 + b"\r\n",
    },
    501: {
        "two encodings": POST + ENCODED * 2 + b"\r\n" + CHUNKED,
        "another encoding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
        "an encoding that hides": POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
        "a list of encodings": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + CHUNKED,
    },
    505: {
        "another version": POST.replace(b"1.1", b"1.2") + LENGTH + b"\r\n" + BODY,
        "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 9,
    },
}
# What comes after the first chunk of a body, up to where the next request begins.
CHUNK_ENDS = {
    400: {
        "a bare line feed": b"0\r\n\n",
        "a bare line feed after a trailer": b"0\r\nX: y\r\n\n",
        "a trailer with a bare line feed": b"0\r\nX: y\n\r\n",
        "line feeds only": b"0\r\nX: y\n\n",
        "a bare carriage return in a trailer": b"0\r\nX: y\rZ: a\r\n\r\n",
        "a folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
        "a trailer that begins folded": b"0\r\n X: y\r\n\r\n",
        "no trailer": b"0\r\nxy\r\n\r\n",
        "a space before a trailer's colon": b"0\r\nX : y\r\n\r\n",
        "a bare carriage return in an extension": b"0;a\rb\r\n\r\n",
        "a bare line feed in an extension": b"0;a\nb\r\n\r\n",
        "an extension without end": b"0;" + b"a" * 40_000,
        "a bare line feed after a size": b"e\n",
        **{
            f"the size {size!r}": size + b"\r\n" + BODY + b"\r\n0\r\n\r\n"
            for size in (b"-e", b"0xe", b"e;\n", b"+e", b" e", b"e" * 30, b"", b"\ne")
        },
    },
    431: {
        "trailers without end": b"0\r\nX: " + b"y" * 40_000,
        "many trailers": b"0\r\n" + b"X: yyyyyyyy\r\n" * 4_000 + b"\r\n",
    },
}
FIRST_CHUNK = POST + ENCODED + b"\r\ne\r\n" + BODY + b"\r\n"
REFUSED = [
    pytest.param(status, begin + data, id=name)
    for begin, table in ((b"", HEADS), (FIRST_CHUNK, CHUNK_ENDS))
    for status, shapes in table.items()
    for name, data in shapes.items()
]


def events(data: bytes, piece: int) -> list[Any]:
    """What becomes of bytes that come so many at a time, each request answered at its end."""
    connection = StrictConnection()
    found: list[Any] = []
    for start in range(0, len(data), piece):
        connection.receive_data(data[start : start + piece])
        try:
            while (event := connection.next_event()) is not h11.NEED_DATA:
                found.append(event)
                if isinstance(event, h11.EndOfMessage):
                    connection.send(h11.Response(status_code=200, headers=[]))
                    connection.send(h11.EndOfMessage())
                    connection.start_next_cycle()
        except h11.RemoteProtocolError as error:
            return [*found, error]
    return found


@pytest.mark.parametrize("piece", [7, 100_000])
@pytest.mark.parametrize(("status", "data"), REFUSED)
def test_what_others_could_read_otherwise_ends_the_connection(
    status: int, data: bytes, piece: int
) -> None:
    *before, error = events(data if data.endswith(b"e\n") else data + PROBE, piece)
    assert isinstance(error, h11.RemoteProtocolError)
    assert error.error_status_hint == status
    assert not any(isinstance(event, h11.EndOfMessage) for event in before)


@pytest.mark.parametrize("piece", [1, 100_000])
def test_what_all_read_alike_is_taken(piece: int) -> None:
    """Trailers, extensions of chunks, and blank lines behind a body (RFC 9112, section 2.2)."""
    end = b"0;last=1\r\nX-Sum: abc\r\nX-Other: \r\n\r\n"
    data = b"\r\n" + FIRST_CHUNK + end + b"\r\n\r\n" + PROBE + POST + LENGTH + b"\r\n" + BODY
    found = events(data, piece)
    bodies = b"".join(bytes(event.data) for event in found if isinstance(event, h11.Data))
    assert bodies == BODY * 2
    assert sum(isinstance(event, h11.EndOfMessage) for event in found) == 3


@pytest.mark.parametrize("piece", [7, 100_000])
@pytest.mark.parametrize("size", [MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1])
def test_a_head_may_have_so_many_bytes(size: int, piece: int) -> None:
    data = GET + b"X: " + b"x" * (size - len(GET) - 7) + b"\r\n\r\n"
    assert len(data) == size
    first = events(data, piece)[0]
    assert isinstance(first, h11.Request if size == MAX_HEAD_BYTES else h11.RemoteProtocolError)
