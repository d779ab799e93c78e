"""Server-sent events, found in bytes however they are cut.

The format is that of WHATWG HTML, section "Server-sent events", "Interpreting an event stream":

1. A line ends with LF, CR, or CR LF. An empty line ends an event.
2. `data:` adds a line to the event's data; one space behind the colon is not part of it.
3. Other fields are read over, and so are lines that begin with a colon, which servers send as signs
   of life. An event without data is none.
4. What stands behind the last empty line when the stream ends is no event: it may be half of one.

The data stay bytes, because a UTF-8 character may not be checked before it is whole.

Pure: no I/O, clock, thread, or model.
"""

from llmstream_cli.errors import UpstreamError

MAX_EVENT_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\n", b"\r")


class EventStream:
    """Takes the bytes of an event stream as they come; gives the data of its events."""

    def __init__(self) -> None:
        self._line = bytearray()  # as far as it has come
        self._data: list[bytes] = []  # lines of the event that has begun
        self._num_data_bytes = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises:
            UpstreamError: an event is longer than `MAX_EVENT_BYTES`.
        """
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        events = []
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if len(self._line) + self._num_data_bytes > MAX_EVENT_BYTES:
                raise UpstreamError(f"the stream has an event over {MAX_EVENT_BYTES >> 20} MiB")
            if part.endswith(_LINE_ENDS):
                event = self._end_line()
                if event is not None:
                    events.append(event)
        return events

    def _end_line(self) -> bytes | None:
        """Take the line that is complete; return the event that it ends."""
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
            self._num_data_bytes += len(value) + 1
        return None

    def _end_event(self) -> bytes | None:
        if not self._data:
            return None
        event = b"\n".join(self._data)
        self._data.clear()
        self._num_data_bytes = 0
        return event
