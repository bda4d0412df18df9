#!/usr/bin/env python3
"""HTTP/2 by frames: the cases of h2spec 2.6 (RFC 7540 and 7541), by their sections, against a server without TLS.

    python3 http2.py 127.0.0.1:3000 [section ...]

A connection error is a GOAWAY with one of the codes named, a stream error an RST_STREAM with one of them (or such a GOAWAY, which a
server may choose instead). A GOAWAY may say PROTOCOL_ERROR for all of them, as the crate `h2` does; h2spec is content with a close
without a word, and this is not. That nothing comes of a frame is known from the answer to a PING behind it. The server has to
answer `/` and `/echo` to GET, HEAD and POST with 200, with a body of five bytes at least.
"""

import socket
import struct
import sys

from hpack import Decoder, Encoder

from table import DEADLINE, Deviation, Wrong, address_of, main

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = "DATA HEADERS PRIORITY RST_STREAM SETTINGS PUSH_PROMISE PING GOAWAY WINDOW_UPDATE CONTINUATION".split()
NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CODES = ("NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
         "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM").split()
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1

ADDRESS = None
CASES = []


def case(section):
    """Enters a function into the table; its name says what is done."""

    def enter(function):
        number = 1 + sum(name.split(" ")[0].rpartition("/")[0] == section for name, _ in CASES)
        CASES.append((f"{section}/{number} {function.__name__.strip('_').replace('_', ' ')}", function))
        return function

    return enter


class Frame:
    def __init__(self, kind, flags, stream, payload):
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload

    def __str__(self):
        name = NAMES[self.kind] if self.kind < len(NAMES) else f"kind {self.kind}"
        if self.kind in (RST_STREAM, GOAWAY):
            code = struct.unpack("!I", self.payload[:4] if self.kind == RST_STREAM else self.payload[4:8])[0]
            return f"{name}({CODES[code] if code < len(CODES) else code}) on {self.stream}"
        return f"{name}({len(self.payload)} bytes, flags {self.flags:#x}) on {self.stream}"


class Connection:
    """A client that sends what it is told, sound or not."""

    def __init__(self, settings=(), preface=PREFACE, greet=True):
        self.socket = socket.create_connection(ADDRESS, timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.seen = []
        self.encoder, self.decoder = Encoder(), Decoder()
        self.room = 65535
        self.peer = {MAX_STREAMS: None, INITIAL_WINDOW: 65535, MAX_FRAME: 16384, TABLE_SIZE: 4096}
        self.raw(preface)
        if greet:
            self.settings(*settings)
            self.expect(lambda frame: frame.kind == SETTINGS and not frame.flags & ACK, "the server's SETTINGS")
            self.send(SETTINGS, ACK, 0)
            self.expect(lambda frame: frame.kind == SETTINGS and frame.flags & ACK, "an ACK of SETTINGS")

    # ---- out ----

    def raw(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # Whether it was right to close is for whoever reads.

    def send(self, kind, flags, stream, payload=b"", length=None):
        size = len(payload) if length is None else length
        self.raw(struct.pack("!I", size)[1:] + struct.pack("!BBI", kind, flags, stream) + payload)

    def settings(self, *pairs):
        self.send(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))

    def block(self, *extra, method="GET", path="/", headers=None):
        return self.encoder.encode(request(*extra, method=method, path=path) if headers is None else headers)

    def more(self):
        """A field for a block that is begun."""
        return self.encoder.encode([("x-dummy", "dummy")])

    def headers(self, stream, flags=END_STREAM | END_HEADERS, block=None, **options):
        self.send(HEADERS, flags, stream, self.block(**options) if block is None else block)

    def data(self, stream, payload=b"test", flags=END_STREAM):
        self.send(DATA, flags, stream, payload)

    def priority(self, stream, on=0, weight=15, exclusive=False):
        self.send(PRIORITY, 0, stream, struct.pack("!IB", on | exclusive << 31, weight))

    def reset(self, stream, code=CANCEL):
        self.send(RST_STREAM, 0, stream, struct.pack("!I", code))

    def window(self, stream, increment):
        self.send(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))

    # ---- in ----

    def next(self):
        """The next frame, or `None` at the end."""
        head = self.take(9)
        if head is None:
            return None
        payload = self.take(int.from_bytes(head[:3], "big"))
        if payload is None:
            return None
        kind, flags, stream = struct.unpack("!BBI", head[3:])
        frame = Frame(kind, flags, stream & LARGEST_WINDOW, payload)
        self.seen.append(str(frame))
        if kind == SETTINGS and not flags & ACK:
            self.peer.update(struct.iter_unpack("!HI", payload))
        if kind == WINDOW_UPDATE and frame.stream == 0:
            self.room += struct.unpack("!I", payload)[0]
        return frame

    def take(self, size):
        while len(self.buffer) < size:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            except TimeoutError:
                raise Wrong(f"nothing more came after {self.seen}") from None
            if not more:
                return None
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def expect(self, wanted, what):
        while (frame := self.next()) is not None:
            if wanted(frame):
                return frame
            if frame.kind in (GOAWAY, RST_STREAM):
                raise Wrong(f"{frame} came instead of {what}")
        raise Wrong(f"the end came instead of {what}, after {self.seen}")

    def answers(self, stream, status=b"200"):
        """The response on a stream, to its end; returns its body."""
        body, seen = b"", None
        while True:
            frame = self.expect(lambda frame: frame.kind in (HEADERS, DATA), f"the answer on {stream}")
            if frame.kind == HEADERS:
                headers = dict(self.decoder.decode(frame.payload, raw=True))
                if frame.stream == stream:
                    seen = headers.get(b":status", seen)
            elif frame.stream == stream:
                body += frame.payload
            if frame.stream == stream and frame.flags & END_STREAM:
                if seen != status:
                    raise Wrong(f"status {seen} instead of {status}")
                return body

    def lives(self):
        """What was sent so far had no consequence."""
        self.send(PING, 0, 0, b"are you?")
        self.expect(lambda frame: frame.kind == PING and frame.flags & ACK and frame.payload == b"are you?", "a PING's ACK")

    def ends(self, *codes):
        """The connection ends with a GOAWAY of such a code."""
        return self.fails(None, codes)

    def stream_ends(self, stream, *codes):
        """The stream ends with such a code; a server may end the connection instead."""
        return self.fails(stream, codes)

    def is_malformed(self, stream):
        """A request turns out to be malformed behind its head: as a stream error, perhaps behind an answer that says so (RFC 9113 8.1.1)."""
        while (frame := self.next()) is not None:
            if frame.kind in (GOAWAY, RST_STREAM):
                code = struct.unpack("!I", frame.payload[:4] if frame.kind == RST_STREAM else frame.payload[4:8])[0]
                return self.judge(frame, code, [PROTOCOL])
            if frame.kind == HEADERS and frame.stream == stream:
                status = dict(self.decoder.decode(frame.payload, raw=True)).get(b":status", b"")
                if not status.startswith(b"4"):
                    raise Deviation(f"answered with {status.decode()}")
                if frame.flags & END_STREAM:
                    return f"answered with {status.decode()}"
            if frame.kind == DATA and frame.stream == stream and frame.flags & END_STREAM:
                return f"answered with {status.decode()}"
        raise Wrong(f"closed without a word, after {self.seen}")

    def fails(self, stream, codes):
        while (frame := self.next()) is not None:
            if frame.kind == GOAWAY and (code := struct.unpack("!I", frame.payload[4:8])[0]) != NO_ERROR:
                return self.judge(frame, code, codes)
            if frame.kind == RST_STREAM and frame.stream == stream:
                return self.judge(frame, struct.unpack("!I", frame.payload)[0], codes)
        raise Wrong(f"closed without a word, where {named(codes)} should be said, after {self.seen}")

    def judge(self, frame, code, codes):
        if frame.kind == GOAWAY and code == PROTOCOL and code not in codes:
            return f"{frame}; {named(codes)} would be more exact"
        if code not in codes:
            raise Wrong(f"{frame}, where {named(codes)} should be said")
        return str(frame)


def named(codes):
    return " or ".join(CODES[code] for code in codes)


def request(*extra, method="GET", path="/"):
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "test.example"), *extra]


def without(name):
    return [(key, value) for key, value in request() if key != name]


def exchanged(connection, stream=1):
    """A stream that was used and is closed on both sides."""
    connection.headers(stream)
    connection.answers(stream)


# ---- generic: what a server has to take ----


@case("generic/1")
def _sends_a_client_connection_preface():
    Connection()


@case("generic/2")
def _a_PRIORITY_frame_on_an_idle_stream():
    connection = Connection()
    connection.priority(1)
    connection.lives()


@case("generic/2")
def _a_WINDOW_UPDATE_frame_on_a_half_closed_stream():
    connection = Connection()
    connection.headers(1)
    connection.window(1, 100)
    connection.answers(1)


@case("generic/2")
def _a_PRIORITY_frame_on_a_half_closed_stream():
    connection = Connection()
    connection.headers(1)
    connection.priority(1, weight=255)
    connection.answers(1)


@case("generic/2")
def _an_RST_STREAM_frame_on_a_half_closed_stream():
    connection = Connection()
    connection.headers(1)
    connection.reset(1)
    connection.lives()


@case("generic/2")
def _a_PRIORITY_frame_on_a_closed_stream():
    connection = Connection()
    exchanged(connection)
    connection.priority(1, weight=255)
    connection.lives()


def posts(connection, *frames, extra=()):
    connection.headers(1, END_HEADERS, method="POST", path="/echo", headers=request(*extra, method="POST", path="/echo"))
    for flags, payload in frames:
        connection.data(1, payload, flags)
    connection.answers(1)


@case("generic/3.1")
def _a_DATA_frame():
    posts(Connection(), (END_STREAM, b"test"))


@case("generic/3.1")
def _multiple_DATA_frames():
    posts(Connection(), (0, b"test"), (END_STREAM, b"test"))


@case("generic/3.1")
def _a_DATA_frame_with_padding():
    posts(Connection(), (END_STREAM | PADDED, b"\6test" + bytes(6)))


@case("generic/3.2")
def _a_HEADERS_frame():
    exchanged(Connection())


@case("generic/3.2")
def _a_HEADERS_frame_with_padding():
    connection = Connection()
    connection.headers(1, END_STREAM | END_HEADERS | PADDED, b"\6" + connection.block() + bytes(6))
    connection.answers(1)


@case("generic/3.2")
def _a_HEADERS_frame_with_priority():
    connection = Connection()
    connection.headers(1, END_STREAM | END_HEADERS | WITH_PRIORITY, struct.pack("!IB", 0, 255) + connection.block())
    connection.answers(1)


@case("generic/3.3")
def _a_PRIORITY_frame_of_priority_1():
    connection = Connection()
    connection.priority(1, weight=0)
    exchanged(connection)


@case("generic/3.3")
def _a_PRIORITY_frame_of_priority_256():
    connection = Connection()
    connection.priority(1, weight=255)
    exchanged(connection)


@case("generic/3.3")
def _a_PRIORITY_frame_with_a_stream_dependency():
    connection = Connection()
    connection.priority(3, on=1)
    connection.lives()


@case("generic/3.3")
def _a_PRIORITY_frame_with_an_exclusive_stream_dependency():
    connection = Connection()
    connection.priority(3, on=1, exclusive=True)
    connection.lives()


@case("generic/3.3")
def _a_PRIORITY_frame_for_an_idle_stream_and_HEADERS_for_a_lower_one():
    connection = Connection()
    connection.priority(5, weight=255)
    exchanged(connection, 3)


@case("generic/3.4")
def _an_RST_STREAM_frame():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST")
    connection.reset(1)
    connection.lives()


@case("generic/3.5")
def _a_SETTINGS_frame():
    connection = Connection()
    connection.settings((MAX_STREAMS, 100))
    connection.expect(lambda frame: frame.kind == SETTINGS and frame.flags & ACK, "an ACK")


@case("generic/3.7")
def _a_PING_frame():
    Connection().lives()


def in_peace(connection, code):
    """The server goes on, or goes itself, and blames nobody."""
    while (frame := connection.next()) is not None:
        if frame.kind == PING:
            return
        if frame.kind == RST_STREAM or frame.kind == GOAWAY and frame.payload[4:8] not in (bytes(4), struct.pack("!I", code)):
            raise Wrong(f"{frame} came instead of an end in peace")


@case("generic/3.8")
def _a_GOAWAY_frame():
    connection = Connection()
    connection.send(GOAWAY, 0, 0, struct.pack("!II", 0, NO_ERROR))
    connection.send(PING, 0, 0, b"are you?")
    in_peace(connection, NO_ERROR)


@case("generic/3.9")
def _a_WINDOW_UPDATE_frame_on_the_connection():
    connection = Connection()
    connection.window(0, 1)
    exchanged(connection)


@case("generic/3.9")
def _a_WINDOW_UPDATE_frame_on_a_stream():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.window(1, 1)
    connection.data(1)
    connection.answers(1)


def continued(connection, pieces):
    block = connection.block(("x-long", "v" * 100))
    size = len(block) // pieces + 1
    parts = [block[at:at + size] for at in range(0, len(block), size)]
    connection.send(HEADERS, END_STREAM, 1, parts[0])
    for part in parts[1:-1]:
        connection.send(CONTINUATION, 0, 1, part)
    connection.send(CONTINUATION, END_HEADERS, 1, parts[-1])
    connection.answers(1)


@case("generic/3.10")
def _a_CONTINUATION_frame():
    continued(Connection(), 2)


@case("generic/3.10")
def _multiple_CONTINUATION_frames():
    continued(Connection(), 3)


@case("generic/4")
def _a_GET_request():
    exchanged(Connection())


@case("generic/4")
def _a_HEAD_request():
    connection = Connection()
    connection.headers(1, method="HEAD")
    if body := connection.answers(1):
        raise Wrong(f"a body of {len(body)} bytes")


@case("generic/4")
def _a_POST_request():
    posts(Connection(), (END_STREAM, b"test"))


@case("generic/4")
def _a_POST_request_with_trailers():
    connection = Connection()
    connection.headers(1, END_HEADERS, headers=request(("trailer", "x-test"), method="POST", path="/echo"))
    connection.data(1, flags=0)
    connection.headers(1, headers=[("x-test", "ok")])
    connection.answers(1)


def literal(first, name, value, huffman):
    """A field in the representation that `first` begins, with a name from the static table (a number) or of its own."""

    def text(string):
        encoded = Encoder().huffman_coder.encode(string) if huffman else string
        return bytes([len(encoded) | (0x80 if huffman else 0)]) + encoded

    return (bytes([first | name]) if isinstance(name, int) else bytes([first]) + text(name)) + text(value)


# :method GET, :scheme http, :path / by index, and :authority by the rest.
INDEXED = b"\x82\x86\x84"


def field_represented(block):
    def run():
        connection = Connection()
        connection.headers(1, block=block)
        connection.answers(1)

    return run


for first, how in ((0x40, "with incremental indexing"), (0x00, "without indexing"), (0x10, "never indexed")):
    if first == 0x40:
        CASES.append(("generic/5/1 an indexed header field", field_represented(INDEXED + literal(0x40, 1, b"a.example", False))))
    for number, (name, huffman) in enumerate(((1, False), (b"x-test", False), (1, True), (b"x-test", True))):
        called = "an indexed name" if name == 1 else "a new name"
        value = b"a.example" if name == 1 else b"test"
        rest = b"" if name == 1 else literal(0x00, 1, b"a.example", False)
        number += 2 + 4 * (0x40, 0x00, 0x10).index(first)
        title = f"generic/5/{number} a literal field {how}, {called}{', by Huffman' if huffman else ''}"
        CASES.append((title, field_represented(INDEXED + rest + literal(first, name, value, huffman))))
AUTHORITY = literal(0x00, 1, b"a.example", False)
CASES.append(("generic/5/14 a dynamic table size update", field_represented(b"\x21" + INDEXED + AUTHORITY)))
CASES.append(("generic/5/15 several dynamic table size updates", field_represented(b"\x20\x2a" + INDEXED + AUTHORITY)))


# ---- 3: the beginning ----


@case("http2/3.5")
def _the_SETTINGS_come_first():
    connection = Connection(greet=False)
    connection.settings()
    frame = connection.next()
    if frame is None or frame.kind != SETTINGS or frame.flags & ACK:
        raise Wrong(f"{frame} came first")


@case("http2/3.5")
def _an_invalid_preface():
    """A port of both versions takes it for HTTP/1, and answers that with 400: see the table of raw shapes."""
    connection = Connection(preface=b"INVALID CONNECTION PREFACE\r\n\r\n", greet=False)
    answer = connection.take(12)
    if answer is None or answer == b"HTTP/1.1 400":
        return "HTTP/1's 400" if answer else "closed"
    raise Wrong(f"{answer!r}")


# ---- 4: frames ----


@case("http2/4.1")
def _a_frame_of_an_unknown_kind():
    connection = Connection()
    connection.send(0x16, 0, 0, bytes(8))
    connection.lives()


@case("http2/4.1")
def _a_frame_with_an_undefined_flag():
    connection = Connection()
    connection.send(PING, 0x16, 0, bytes(8))
    connection.expect(lambda frame: frame.kind == PING and frame.flags & ACK, "its ACK")


@case("http2/4.1")
def _a_frame_with_the_reserved_bit():
    connection = Connection()
    connection.send(PING, 0, 1 << 31, bytes(8))
    connection.expect(lambda frame: frame.kind == PING and frame.flags & ACK, "its ACK")


@case("http2/4.2")
def _a_DATA_frame_of_16384_bytes():
    posts(Connection(), (END_STREAM, bytes(16384)))


@case("http2/4.2")
def _a_DATA_frame_that_is_too_large():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.data(1, bytes(connection.peer[MAX_FRAME] + 1))
    return connection.stream_ends(1, FRAME_SIZE)


@case("http2/4.2")
def _a_HEADERS_frame_that_is_too_large():
    connection = Connection()
    block = literal(0x00, b"x", b"v", False) * (connection.peer[MAX_FRAME] // 5 + 1)
    connection.headers(1, block=connection.block() + block)
    return connection.ends(FRAME_SIZE)


@case("http2/4.3")
def _an_invalid_header_block():
    connection = Connection()
    # A literal whose name is longer than what is there.
    connection.headers(1, block=b"\x00\x7f\x81\x7f")
    return connection.ends(COMPRESSION)


@case("http2/4.3")
def _a_PRIORITY_frame_within_a_header_block():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.priority(1, weight=255)
    connection.send(CONTINUATION, END_HEADERS, 1, connection.more())
    return connection.ends(PROTOCOL)


@case("http2/4.3")
def _another_streams_HEADERS_within_a_header_block():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.headers(3)
    return connection.ends(PROTOCOL)


# ---- 5: streams ----


@case("http2/5.1")
def _idle_a_DATA_frame():
    connection = Connection()
    connection.data(1)
    return connection.ends(PROTOCOL)


@case("http2/5.1")
def _idle_an_RST_STREAM_frame():
    connection = Connection()
    connection.reset(1)
    return connection.ends(PROTOCOL)


@case("http2/5.1")
def _idle_a_WINDOW_UPDATE_frame():
    connection = Connection()
    connection.window(1, 100)
    return connection.ends(PROTOCOL)


@case("http2/5.1")
def _idle_a_CONTINUATION_frame():
    connection = Connection()
    connection.send(CONTINUATION, END_HEADERS, 1, connection.block())
    return connection.ends(PROTOCOL)


def after(before, frame, *codes, connection_error=False):
    connection = Connection()
    before(connection)
    frame(connection)
    return connection.ends(*codes) if connection_error else connection.stream_ends(1, *codes)


def half_closed(connection):
    # No window, so that the answer keeps the stream open.
    connection.settings((INITIAL_WINDOW, 0))
    connection.headers(1)


def was_reset(connection):
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.reset(1)


def some_data(connection):
    connection.data(1)


def more_headers(connection):
    connection.headers(1)


def a_continuation(connection):
    connection.send(CONTINUATION, END_HEADERS, 1, connection.block())


@case("http2/5.1")
def _half_closed_a_DATA_frame():
    return after(half_closed, some_data, STREAM_CLOSED)


@case("http2/5.1")
def _half_closed_a_HEADERS_frame():
    return after(half_closed, more_headers, STREAM_CLOSED)


@case("http2/5.1")
def _half_closed_a_CONTINUATION_frame():
    return after(half_closed, a_continuation, STREAM_CLOSED, PROTOCOL, connection_error=True)


@case("http2/5.1")
def _after_RST_STREAM_a_DATA_frame():
    return after(was_reset, some_data, STREAM_CLOSED)


@case("http2/5.1")
def _after_RST_STREAM_a_HEADERS_frame():
    return after(was_reset, more_headers, STREAM_CLOSED)


@case("http2/5.1")
def _after_RST_STREAM_a_CONTINUATION_frame():
    return after(was_reset, a_continuation, STREAM_CLOSED, PROTOCOL, connection_error=True)


@case("http2/5.1")
def _closed_a_DATA_frame():
    return after(exchanged, some_data, STREAM_CLOSED)


@case("http2/5.1")
def _closed_a_HEADERS_frame():
    return after(exchanged, more_headers, STREAM_CLOSED, PROTOCOL, connection_error=True)


@case("http2/5.1")
def _closed_a_CONTINUATION_frame():
    return after(exchanged, a_continuation, STREAM_CLOSED, PROTOCOL, connection_error=True)


@case("http2/5.1.1")
def _an_even_stream_number():
    connection = Connection()
    connection.headers(2)
    return connection.ends(PROTOCOL)


@case("http2/5.1.1")
def _a_stream_number_below_one_that_was_used():
    connection = Connection()
    connection.headers(5)
    connection.headers(3)
    return connection.ends(PROTOCOL)


@case("http2/5.1.2")
def _more_streams_than_the_server_allows():
    connection = Connection()
    most = connection.peer[MAX_STREAMS]
    if most is None or most > 10_000:
        raise Wrong(f"the server allows {most} streams")
    connection.settings((INITIAL_WINDOW, 0))
    connection.expect(lambda frame: frame.kind == SETTINGS and frame.flags & ACK, "an ACK")
    # By their numbers, without the encoder's table: what is refused is decoded all the same.
    for number in range(most + 1):
        connection.headers(2 * number + 1)
    return f"{most}, then " + connection.stream_ends(2 * most + 1, PROTOCOL, REFUSED)


@case("http2/5.3.1")
def _a_HEADERS_frame_that_depends_on_itself():
    connection = Connection()
    connection.headers(1, END_STREAM | END_HEADERS | WITH_PRIORITY, struct.pack("!IB", 1, 255) + connection.block())
    return connection.stream_ends(1, PROTOCOL)


@case("http2/5.3.1")
def _a_PRIORITY_frame_that_depends_on_itself():
    connection = Connection()
    connection.priority(2, on=2, weight=255)
    return connection.stream_ends(2, PROTOCOL)


def an_invalid_ping():
    connection = Connection()
    connection.send(PING, 0, 3, bytes(8))
    return connection


@case("http2/5.4.1")
def _a_connection_error_is_followed_by_the_end():
    connection = an_invalid_ping()
    connection.ends(PROTOCOL)
    while connection.next() is not None:
        pass


@case("http2/5.4.1")
def _a_connection_error_is_told_by_GOAWAY():
    return an_invalid_ping().ends(PROTOCOL)


@case("http2/5.5")
def _an_unknown_extension_frame():
    connection = Connection()
    connection.send(0xff, 0x16, 0, bytes(8))
    connection.lives()


@case("http2/5.5")
def _an_unknown_extension_frame_within_a_header_block():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.send(0xff, 0, 0, bytes(8))
    connection.send(CONTINUATION, END_HEADERS, 1, connection.more())
    return connection.ends(PROTOCOL)


# ---- 6: kinds of frames ----


@case("http2/6.1")
def _a_DATA_frame_on_no_stream():
    connection = Connection()
    connection.data(0)
    return connection.ends(PROTOCOL)


@case("http2/6.1")
def _a_DATA_frame_on_a_stream_that_is_not_open():
    return after(half_closed, some_data, STREAM_CLOSED)


@case("http2/6.1")
def _a_DATA_frame_with_too_much_padding():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.data(1, b"\x16test\0", END_STREAM | PADDED)
    return connection.ends(PROTOCOL)


@case("http2/6.2")
def _a_HEADERS_frame_without_END_HEADERS_and_a_PRIORITY_frame():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.priority(1, weight=255)
    return connection.ends(PROTOCOL)


@case("http2/6.2")
def _a_HEADERS_frame_without_END_HEADERS_and_another_streams():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.headers(3)
    return connection.ends(PROTOCOL)


@case("http2/6.2")
def _a_HEADERS_frame_on_no_stream():
    connection = Connection()
    connection.headers(0)
    return connection.ends(PROTOCOL)


@case("http2/6.2")
def _a_HEADERS_frame_with_too_much_padding():
    connection = Connection()
    block = connection.block()
    connection.headers(1, END_STREAM | END_HEADERS | PADDED, bytes([len(block) + 1]) + block)
    return connection.stream_ends(1, PROTOCOL)


@case("http2/6.3")
def _a_PRIORITY_frame_on_no_stream():
    connection = Connection()
    connection.priority(0)
    return connection.ends(PROTOCOL)


@case("http2/6.3")
def _a_PRIORITY_frame_of_4_bytes():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.send(PRIORITY, 0, 1, bytes([128, 0, 0, 1]))
    return connection.stream_ends(1, FRAME_SIZE)


@case("http2/6.4")
def _an_RST_STREAM_frame_on_no_stream():
    connection = Connection()
    connection.reset(0)
    return connection.ends(PROTOCOL)


@case("http2/6.4")
def _an_RST_STREAM_frame_on_an_idle_stream():
    connection = Connection()
    connection.reset(1)
    return connection.ends(PROTOCOL)


@case("http2/6.4")
def _an_RST_STREAM_frame_of_3_bytes():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.send(RST_STREAM, 0, 1, bytes(3))
    return connection.stream_ends(1, FRAME_SIZE)


@case("http2/6.5")
def _an_ACK_of_SETTINGS_with_a_payload():
    connection = Connection()
    connection.send(SETTINGS, ACK, 0, bytes(1))
    return connection.ends(FRAME_SIZE)


@case("http2/6.5")
def _a_SETTINGS_frame_on_a_stream():
    connection = Connection()
    connection.send(SETTINGS, 0, 1, struct.pack("!HI", MAX_STREAMS, 150))
    return connection.ends(PROTOCOL)


@case("http2/6.5")
def _a_SETTINGS_frame_of_3_bytes():
    connection = Connection()
    connection.send(SETTINGS, 0, 0, bytes(3))
    return connection.ends(FRAME_SIZE)


def setting(number, value, *codes):
    connection = Connection()
    connection.settings((number, value))
    return connection.ends(*codes)


@case("http2/6.5.2")
def _ENABLE_PUSH_that_is_neither_0_nor_1():
    return setting(ENABLE_PUSH, 2, PROTOCOL)


@case("http2/6.5.2")
def _INITIAL_WINDOW_SIZE_above_the_largest():
    return setting(INITIAL_WINDOW, 2**31, FLOW_CONTROL)


@case("http2/6.5.2")
def _MAX_FRAME_SIZE_below_the_least():
    return setting(MAX_FRAME, 2**14 - 1, PROTOCOL)


@case("http2/6.5.2")
def _MAX_FRAME_SIZE_above_the_most():
    return setting(MAX_FRAME, 2**24, PROTOCOL)


@case("http2/6.5.2")
def _a_setting_that_is_not_known():
    connection = Connection()
    connection.settings((0xff, 1))
    connection.lives()


def bodies(connection, stream, size):
    """A DATA frame of this size, and nothing more without a window."""
    frame = connection.expect(lambda frame: frame.kind == DATA and frame.stream == stream, "DATA")
    if len(frame.payload) != size:
        raise Wrong(f"{frame}, where {size} bytes are allowed")


@case("http2/6.5.3")
def _several_values_of_INITIAL_WINDOW_SIZE():
    connection = Connection()
    connection.settings((INITIAL_WINDOW, 100), (INITIAL_WINDOW, 1))
    connection.headers(1)
    bodies(connection, 1, 1)


@case("http2/6.5.3")
def _a_SETTINGS_frame_is_acknowledged():
    connection = Connection()
    connection.settings((ENABLE_PUSH, 0))
    connection.expect(lambda frame: frame.kind == SETTINGS and frame.flags & ACK, "an ACK")


@case("http2/6.7")
def _a_PING_frame_is_answered():
    Connection().lives()


@case("http2/6.7")
def _a_PING_frame_with_ACK_is_not():
    connection = Connection()
    connection.send(PING, ACK, 0, b"unwanted")
    connection.send(PING, 0, 0, b"expected")
    frame = connection.expect(lambda frame: frame.kind == PING, "a PING")
    if frame.payload != b"expected":
        raise Wrong(f"{frame.payload!r} was answered")


@case("http2/6.7")
def _a_PING_frame_on_a_stream():
    return an_invalid_ping().ends(PROTOCOL)


@case("http2/6.7")
def _a_PING_frame_of_6_bytes():
    connection = Connection()
    connection.send(PING, 0, 0, bytes(6))
    return connection.ends(FRAME_SIZE)


@case("http2/6.8")
def _a_GOAWAY_frame_on_a_stream():
    connection = Connection()
    connection.send(GOAWAY, 0, 1, struct.pack("!II", 0, NO_ERROR))
    return connection.ends(PROTOCOL)


@case("http2/6.9")
def _a_WINDOW_UPDATE_frame_of_0_on_the_connection():
    connection = Connection()
    connection.window(0, 0)
    return connection.ends(PROTOCOL)


@case("http2/6.9")
def _a_WINDOW_UPDATE_frame_of_0_on_a_stream():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.window(1, 0)
    return connection.stream_ends(1, PROTOCOL)


@case("http2/6.9")
def _a_WINDOW_UPDATE_frame_of_3_bytes():
    connection = Connection()
    connection.send(WINDOW_UPDATE, 0, 0, bytes(3))
    return connection.ends(FRAME_SIZE)


@case("http2/6.9.1")
def _no_more_DATA_than_the_window_of_a_stream():
    connection = Connection(settings=[(INITIAL_WINDOW, 1)])
    connection.headers(1)
    bodies(connection, 1, 1)


@case("http2/6.9.1")
def _a_window_of_the_connection_above_the_largest():
    connection = Connection()
    connection.window(0, LARGEST_WINDOW)
    connection.window(0, LARGEST_WINDOW)
    return connection.ends(FLOW_CONTROL)


@case("http2/6.9.1")
def _a_window_of_a_stream_above_the_largest():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.window(1, LARGEST_WINDOW)
    connection.window(1, LARGEST_WINDOW)
    return connection.stream_ends(1, FLOW_CONTROL)


@case("http2/6.9.2")
def _INITIAL_WINDOW_SIZE_that_changes_after_HEADERS():
    connection = Connection(settings=[(INITIAL_WINDOW, 0)])
    connection.headers(1)
    connection.settings((INITIAL_WINDOW, 1))
    bodies(connection, 1, 1)


@case("http2/6.9.2")
def _a_window_that_becomes_negative():
    connection = Connection(settings=[(INITIAL_WINDOW, 3)])
    connection.headers(1)
    bodies(connection, 1, 3)
    connection.settings((INITIAL_WINDOW, 2))
    # It is -1 now.
    connection.window(1, 2)
    bodies(connection, 1, 1)


@case("http2/6.9.2")
def _INITIAL_WINDOW_SIZE_above_the_largest_again():
    return setting(INITIAL_WINDOW, 2**31, FLOW_CONTROL)


@case("http2/6.10")
def _several_CONTINUATION_frames():
    continued(Connection(), 4)


@case("http2/6.10")
def _another_frame_behind_a_CONTINUATION_frame():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.send(CONTINUATION, 0, 1, connection.more())
    connection.data(1)
    return connection.ends(PROTOCOL)


@case("http2/6.10")
def _a_CONTINUATION_frame_on_no_stream():
    connection = Connection()
    connection.headers(1, END_STREAM)
    connection.send(CONTINUATION, END_HEADERS, 0, connection.more())
    return connection.ends(PROTOCOL)


@case("http2/6.10")
def _a_CONTINUATION_frame_behind_HEADERS_with_END_HEADERS():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.send(CONTINUATION, END_HEADERS, 1, connection.more())
    return connection.ends(PROTOCOL)


@case("http2/6.10")
def _a_CONTINUATION_frame_behind_one_with_END_HEADERS():
    connection = Connection()
    block = connection.block(("x", "y"), method="POST", path="/echo")
    connection.send(HEADERS, 0, 1, block[:5])
    connection.send(CONTINUATION, END_HEADERS, 1, block[5:])
    connection.send(CONTINUATION, END_HEADERS, 1, connection.more())
    return connection.ends(PROTOCOL)


@case("http2/6.10")
def _a_CONTINUATION_frame_behind_DATA():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.data(1, flags=0)
    connection.send(CONTINUATION, END_HEADERS, 1, connection.more())
    return connection.ends(PROTOCOL)


# ---- 7: codes ----


@case("http2/7")
def _a_GOAWAY_frame_with_an_unknown_code():
    connection = Connection()
    connection.send(GOAWAY, 0, 0, struct.pack("!II", 0, 0xff))
    connection.send(PING, 0, 0, b"are you?")
    in_peace(connection, 0xff)


@case("http2/7")
def _an_RST_STREAM_frame_with_an_unknown_code():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.reset(1, 0xff)
    connection.lives()


# ---- 8: requests ----


@case("http2/8.1")
def _second_HEADERS_without_END_STREAM():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.headers(1, END_HEADERS, headers=[("x-test", "ok")])
    return connection.is_malformed(1)


def malformed(headers):
    connection = Connection()
    connection.headers(1, headers=headers)
    return connection.stream_ends(1, PROTOCOL)


@case("http2/8.1.2")
def _a_field_name_in_upper_case():
    connection = Connection()
    connection.headers(1, block=connection.block() + literal(0x00, b"X-TEST", b"ok", False))
    return connection.stream_ends(1, PROTOCOL)


@case("http2/8.1.2.1")
def _an_unknown_pseudo_field():
    return malformed(request((":test", "ok")))


@case("http2/8.1.2.1")
def _a_pseudo_field_of_answers():
    return malformed(request((":status", "200")))


@case("http2/8.1.2.1")
def _a_pseudo_field_among_trailers():
    connection = Connection()
    connection.headers(1, END_HEADERS, method="POST", path="/echo")
    connection.data(1, flags=0)
    connection.headers(1, headers=[(":method", "200")])
    return connection.is_malformed(1)


@case("http2/8.1.2.1")
def _a_pseudo_field_behind_others():
    return malformed([("x-test", "ok"), *request()])


@case("http2/8.1.2.2")
def _a_field_of_the_connection():
    return malformed(request(("connection", "keep-alive")))


@case("http2/8.1.2.2")
def _TE_with_something_else_than_trailers():
    return malformed(request(("trailers", "test"), ("te", "trailers, deflate")))


@case("http2/8.1.2.3")
def _an_empty_path():
    return malformed(request(path=""))


@case("http2/8.1.2.3")
def _no_method():
    return malformed(without(":method"))


@case("http2/8.1.2.3")
def _no_scheme():
    return malformed(without(":scheme"))


@case("http2/8.1.2.3")
def _no_path():
    return malformed(without(":path"))


@case("http2/8.1.2.3")
def _two_methods():
    return malformed([(":method", "GET"), *request()])


@case("http2/8.1.2.3")
def _two_schemes():
    return malformed([(":scheme", "http"), *request()])


@case("http2/8.1.2.3")
def _two_paths():
    return malformed([(":path", "/"), *request()])


def of_another_length(*parts):
    connection = Connection()
    connection.headers(1, END_HEADERS, headers=request(("content-length", "1"), method="POST", path="/echo"))
    for part in parts[:-1]:
        connection.data(1, part, 0)
    connection.data(1, parts[-1])
    return connection.is_malformed(1)


@case("http2/8.1.2.6")
def _a_content_length_that_is_not_that_of_the_DATA():
    return of_another_length(b"test")


@case("http2/8.1.2.6")
def _a_content_length_that_is_not_that_of_several_DATA():
    return of_another_length(b"test", b"test")


@case("http2/8.2")
def _a_PUSH_PROMISE_frame():
    connection = Connection()
    connection.send(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 3) + connection.block())
    return connection.ends(PROTOCOL)


# ---- HPACK ----


def compressed(block, *settings):
    connection = Connection(settings=settings)
    connection.headers(1, block=block)
    return connection.ends(COMPRESSION)


@case("hpack/2.3.3")
def _an_index_beyond_the_tables():
    return compressed(INDEXED + b"\xc6" + AUTHORITY)


@case("hpack/2.3.3")
def _a_literal_whose_names_index_is_beyond_the_tables():
    return compressed(INDEXED + b"\x0f\x37\4test" + AUTHORITY)


@case("hpack/4.2")
def _a_table_size_update_at_the_end_of_a_block():
    return compressed(INDEXED + AUTHORITY + b"\x3f\xe1\x1f")


@case("hpack/5.2")
def _a_Huffman_code_with_more_than_7_bits_of_padding():
    return compressed(INDEXED + AUTHORITY + b"\0\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff")


@case("hpack/5.2")
def _a_Huffman_code_padded_with_zeros():
    return compressed(INDEXED + AUTHORITY + b"\0\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90")


@case("hpack/5.2")
def _a_Huffman_code_with_EOS():
    return compressed(INDEXED + AUTHORITY + b"\0\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f")


@case("hpack/6.1")
def _the_index_0():
    return compressed(INDEXED + b"\x80" + AUTHORITY)


@case("hpack/6.3")
def _a_table_size_above_what_the_server_allows():
    return compressed(b"\x3f\xff\xff\x7f" + INDEXED + AUTHORITY)


KNOWN = {"http2/8.1.2.1/3": "the crate h2 drops the field and takes the rest"}

if __name__ == "__main__":
    ADDRESS = address_of(sys.argv[1])
    main(CASES, sys.argv[2:], KNOWN)
