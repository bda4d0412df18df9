#!/usr/bin/env python3
"""WebSockets by frames (RFC 6455, in the order of Autobahn's sections), against an echo at `/ws`.

    python3 websocket.py 127.0.0.1:3000 http1 [section ...]      by `Upgrade`
    python3 websocket.py 127.0.0.1:3000 http2 [section ...]      by the extended CONNECT of RFC 8441
    python3 websocket.py 127.0.0.1:3000 client                   the same echo as the `websockets` package sees it
    python3 websocket.py 127.0.0.1:3000 goodbye                  says `open` when 20 sockets are, and expects 1001 on each

A peer that breaks the protocol is told so by a close frame with the code named, or the connection ends; its message is not echoed.
"""

import os
import socket
import struct
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import http2
from table import DEADLINE, Wrong, address_of, run, selected

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
# What the server is set to.
LARGEST = 2 << 20
CASES = []


def case(section, what, *rest):
    """Enters a function of a socket into the table, maybe with arguments."""

    def enter(function):
        CASES.append((f"{section} {what}", lambda socket: function(socket, *rest)))
        return function

    return enter


# ---- two ways to a stream of bytes ----


class ByUpgrade:
    def __init__(self, address):
        self.early = b""
        self.socket = socket.create_connection(address, timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(handshake())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive() or b""
        head, _, self.early = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101") or ACCEPT not in head:
            raise Wrong(f"{head!r}")

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        early, self.early = self.early, b""
        return early or self.socket.recv(65536)


# The example of RFC 6455.
KEY, ACCEPT = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake(version="13", key=KEY, upgrade="websocket"):
    head = f"GET /ws HTTP/1.1\r\nHost: test.example\r\nUpgrade: {upgrade}\r\nConnection: Upgrade\r\n"
    return (head + f"{key}Sec-WebSocket-Version: {version}\r\n\r\n").encode()


class ByConnect:
    """A stream of an HTTP/2 connection."""

    ENABLE_CONNECT = 8

    def __init__(self, address):
        http2.ADDRESS = address
        self.connection = http2.Connection()
        if self.connection.peer.get(self.ENABLE_CONNECT) != 1:
            raise Wrong("the server does not offer the extended CONNECT")
        headers = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", "/ws"),
                   (":authority", "test.example"), ("sec-websocket-version", "13")]
        self.connection.headers(1, http2.END_HEADERS, headers=headers)
        frame = self.connection.expect(lambda frame: frame.kind == http2.HEADERS, "an answer")
        status = dict(self.connection.decoder.decode(frame.payload, raw=True)).get(b":status")
        if status != b"200":
            raise Wrong(f"status {status}")
        self.room = self.connection.peer[http2.INITIAL_WINDOW]
        self.ended = False
        self.early = b""

    def send(self, data):
        while data:
            while min(self.connection.room, self.room) <= 0:
                self.early += self.pump() or b""
                if self.ended:
                    return
            size = min(len(data), self.connection.room, self.room, 16384)
            self.connection.data(1, data[:size], 0)
            data = data[size:]
            self.connection.room -= size
            self.room -= size

    def receive(self):
        early, self.early = self.early, b""
        while not early and not self.ended:
            early = self.pump() or b""
        return early

    def pump(self):
        """One frame; what came of the stream."""
        frame = self.connection.next()
        if frame is None or frame.kind == http2.RST_STREAM:
            self.ended = True
        elif frame.kind == http2.WINDOW_UPDATE and frame.stream:
            self.room += struct.unpack("!I", frame.payload)[0]
        elif frame.kind == http2.DATA:
            self.ended = bool(frame.flags & http2.END_STREAM)
            if frame.payload:
                self.connection.window(0, len(frame.payload))
                self.connection.window(1, len(frame.payload))
            return frame.payload
        return None


class Socket:
    """A client that sends what it is told, sound or not."""

    def __init__(self, wire):
        self.wire, self.buffer = wire, b""

    def send(self, opcode, payload=b"", final=True, reserved=0, mask=True, length=None):
        size = len(payload) if length is None else length
        bit = 0x80 if mask else 0
        if size < 126:
            short = struct.pack("!B", bit | size)
        elif size < 65536:
            short = struct.pack("!BH", bit | 126, size)
        else:
            short = struct.pack("!BQ", bit | 127, size)
        key = os.urandom(4) if mask else b""
        head = bytes([(0x80 if final else 0) | reserved << 4 | opcode]) + short + key
        try:
            self.wire.send(head + (masked(payload, key) if mask else payload))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def take(self, size):
        while len(self.buffer) < size:
            try:
                more = self.wire.receive()
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            self.buffer += more
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def next(self):
        """Opcode and payload of the next frame, or `None` at the end."""
        head = self.take(2)
        if head is None:
            return None
        if head[0] & 0x70 or head[1] & 0x80 or not head[0] & 0x80:
            raise Wrong(f"a frame that begins with {head!r}")
        size = head[1]
        if size >= 126:
            size = int.from_bytes(self.take(2 if size == 126 else 8) or b"", "big")
        payload = self.take(size)
        return None if payload is None else (head[0] & 15, payload)

    def expect(self, opcode, payload):
        frame = self.next()
        if frame != (opcode, payload):
            raise Wrong(f"{told(frame)} where {told((opcode, payload))} is right")

    def fails(self, *codes):
        """It is told one of the codes, or nothing; no echo. The connection ends."""
        while (frame := self.next()) is not None:
            opcode, payload = frame
            if opcode != CLOSE:
                raise Wrong(f"{told(frame)} where an end is right")
            code = struct.unpack("!H", payload[:2])[0] if payload else None
            if code not in codes:
                raise Wrong(f"closed with {code} where {codes} is right")
            self.send(CLOSE, payload)
            return f"closed with {code}"
        return "ended"

    def closes(self, payload, code):
        """Its close frame is answered, and the connection ends."""
        self.send(CLOSE, payload)
        frame = self.next()
        if frame is None or frame[0] != CLOSE or frame[1][:2] != code:
            raise Wrong(f"{told(frame)} where a close frame with {code!r} is right")
        if (frame := self.next()) is not None:
            raise Wrong(f"{told(frame)} behind the close frame")


def masked(payload, key):
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def told(frame):
    return "the end" if frame is None else f"opcode {frame[0]}, {len(frame[1])} bytes {frame[1][:20]!r}"


# ---- 1: echoes ----

for kind, opcode in (("text", TEXT), ("binary", BINARY)):
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20):
        @case("1", f"an echo of {size} bytes of {kind}", opcode, size)
        def echo(socket, opcode, size):
            payload = b"*" * size if opcode == TEXT else os.urandom(size)
            socket.send(opcode, payload)
            socket.expect(opcode, payload)


@case("1", "a frame in single bytes")
def in_bytes(socket):
    frame = bytes([0x80 | TEXT, 0x80 | 5]) + b"\1\2\3\4" + masked(b"hello", b"\1\2\3\4")
    for byte in frame:
        socket.wire.send(bytes([byte]))
    socket.expect(TEXT, b"hello")


# ---- 2: pings and pongs ----

for size in (0, 1, 125):
    @case("2", f"a ping of {size} bytes", size)
    def ping(socket, size):
        payload = os.urandom(size)
        socket.send(PING, payload)
        socket.expect(PONG, payload)


@case("2", "ten pings")
def pings(socket):
    for number in range(10):
        socket.send(PING, b"%d" % number)
        socket.expect(PONG, b"%d" % number)


@case("2", "a pong that nobody asked for")
def pong(socket):
    socket.send(PONG, b"unasked")
    socket.send(PING, b"asked")
    socket.expect(PONG, b"asked")


@case("2", "a ping of 126 bytes")
def long_ping(socket):
    socket.send(PING, bytes(126))
    return socket.fails(1002)


# ---- 3 and 4: what is reserved ----

for bits in (1, 2, 3, 4, 5, 6, 7):
    @case("3", f"the reserved bits {bits:03b}", bits)
    def reserved(socket, bits):
        socket.send(TEXT, b"hello", reserved=bits)
        return socket.fails(1002)

for number in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    @case("4", f"the reserved opcode {number}", number)
    def reserved_opcode(socket, number):
        socket.send(number, b"hello")
        return socket.fails(1002)


@case("4", "the highest bit of a length")
def highest_bit(socket):
    socket.send(BINARY, b"", length=1 << 63)
    return socket.fails(1002, 1009)


@case("4", "a frame that is not masked")
def not_masked(socket):
    socket.send(TEXT, b"hello", mask=False)
    return socket.fails(1002)


# ---- 5: fragments ----


def fragments(socket, opcode, *parts, between=lambda socket: None):
    for number, part in enumerate(parts):
        socket.send(opcode if number == 0 else CONTINUATION, part, final=number == len(parts) - 1)
        if number < len(parts) - 1:
            between(socket)


for kind, opcode in (("text", TEXT), ("binary", BINARY)):
    @case("5", f"{kind} in two fragments", opcode)
    def two_fragments(socket, opcode):
        fragments(socket, opcode, b"hello, ", b"world")
        socket.expect(opcode, b"hello, world")

    @case("5", f"{kind} in 100 fragments, some of them empty", opcode)
    def many_fragments(socket, opcode):
        parts = [b"x" * (number % 3) for number in range(100)]
        fragments(socket, opcode, *parts)
        socket.expect(opcode, b"".join(parts))


@case("5", "a ping between two fragments")
def ping_between(socket):
    def between(socket):
        socket.send(PING, b"now")
        socket.expect(PONG, b"now")

    fragments(socket, TEXT, b"hello, ", b"world", between=between)
    socket.expect(TEXT, b"hello, world")


for kind, opcode in (("ping", PING), ("pong", PONG), ("close frame", CLOSE)):
    @case("5", f"a {kind} in fragments", opcode)
    def control_in_fragments(socket, opcode):
        socket.send(opcode, b"", final=False)
        return socket.fails(1002)

for final in (True, False):
    @case("5", f"a continuation of nothing{'' if final else ' that goes on'}", final)
    def continuation(socket, final):
        socket.send(CONTINUATION, b"hello", final=final)
        return socket.fails(1002)


@case("5", "a message within another one's fragments")
def message_within(socket):
    socket.send(TEXT, b"hello", final=False)
    socket.send(TEXT, b"world")
    return socket.fails(1002)


# ---- 6: text ----

SOUND = "κόσμε – ÄÖÜ – 水 – 🦀".encode()


@case("6", "text of several bytes a letter")
def sound(socket):
    socket.send(TEXT, SOUND)
    socket.expect(TEXT, SOUND)


@case("6", "text whose letters are cut into fragments")
def cut_letters(socket):
    fragments(socket, TEXT, *(bytes([byte]) for byte in SOUND))
    socket.expect(TEXT, SOUND)


for what, text in (
    ("a lone continuation byte", b"\x80"), ("0xfe", b"\xfe"), ("a letter that is cut short", SOUND[:-1]),
    ("a surrogate", b"\xed\xa0\x80"), ("an overlong slash", b"\xc0\xaf"), ("a letter beyond the last", b"\xf4\x90\x80\x80"),
    ("five bytes a letter", b"\xf8\x88\x80\x80\x80"), ("a sound beginning", SOUND + b"\xff" + SOUND),
):
    @case("6", f"text with {what}", text)
    def unsound(socket, text):
        socket.send(TEXT, text)
        return socket.fails(1007)

    @case("6", f"text with {what}, in fragments", text)
    def unsound_in_fragments(socket, text):
        fragments(socket, TEXT, b"sound, ", text)
        return socket.fails(1007)

    @case("6", f"binary with {what}", text)
    def binary(socket, text):
        socket.send(BINARY, text)
        socket.expect(BINARY, text)


# ---- 7: the end ----

for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    @case("7", f"closed with {code}", code)
    def closed(socket, code):
        socket.closes(struct.pack("!H", code), struct.pack("!H", code))

for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
    @case("7", f"closed with {code}, which is no code", code)
    def closed_wrongly(socket, code):
        socket.send(CLOSE, struct.pack("!H", code))
        return socket.fails(1002)


@case("7", "closed without a code")
def closed_without(socket):
    socket.closes(b"", b"")


@case("7", "closed with a reason of 123 bytes")
def closed_with_reason(socket):
    socket.closes(struct.pack("!H", 1000) + b"x" * 123, struct.pack("!H", 1000))


@case("7", "closed with a reason of 124 bytes")
def closed_with_long_reason(socket):
    socket.send(CLOSE, struct.pack("!H", 1000) + b"x" * 124)
    return socket.fails(1002)


@case("7", "closed with half a code")
def closed_with_half(socket):
    socket.send(CLOSE, b"\3")
    return socket.fails(1002)


@case("7", "closed with a reason that is no text")
def closed_with_bad_reason(socket):
    socket.send(CLOSE, struct.pack("!H", 1000) + b"\xff\xfe")
    return socket.fails(1002, 1007)


@case("7", "a message and a ping behind the close frame")
def behind_close(socket):
    socket.send(CLOSE, struct.pack("!H", 1000))
    socket.send(TEXT, b"too late")
    socket.send(PING, b"too late")
    return socket.fails(1000)


# ---- 9: too much ----


@case("9", "a message that is too large")
def too_large(socket):
    socket.send(BINARY, bytes(LARGEST + 1))
    return socket.fails(1009)


@case("9", "a message that is too large by its fragments")
def too_large_in_fragments(socket):
    fragments(socket, BINARY, *([bytes(256 << 10)] * 9))
    return socket.fails(1009)


@case("9", "a length that is too large, and nothing behind it")
def too_large_by_its_word(socket):
    socket.send(BINARY, b"", length=1 << 40)
    return socket.fails(1009)


# ---- who asks for one ----


def refused(address, request, *statuses):
    def case():
        with socket.create_connection(address, timeout=DEADLINE) as connection:
            connection.sendall(request)
            status = connection.recv(12).partition(b" ")[2].decode()
        if status not in statuses:
            raise Wrong(f"status {status} where {statuses} is right")
        return status

    return case


def handshakes(address):
    return [
        ("0 no key", refused(address, handshake(key=""), "400")),
        ("0 another version", refused(address, handshake(version="8"), "400", "426")),
        ("0 another protocol", refused(address, handshake(upgrade="h2c"), "400", "426")),
    ]


def over(wire, address, arguments):
    cases = [(name, lambda function=function: function(Socket(wire(address)))) for name, function in CASES]
    if wire is ByUpgrade:
        cases += handshakes(address)
    return run(selected(cases, arguments))


# ---- another's client ----


def client(address):
    uri = "ws://%s:%d/ws" % address

    def echo(message):
        with connect(uri, max_size=None, compression=None, open_timeout=DEADLINE) as socket:
            socket.send(message)
            if socket.recv(DEADLINE) != message:
                raise Wrong("another message came back")

    def pings():
        with connect(uri, open_timeout=DEADLINE) as socket:
            if not socket.ping(b"are you?").wait(DEADLINE):
                raise Wrong("no pong")

    def ends():
        with connect(uri, open_timeout=DEADLINE) as socket:
            socket.close(1000, "goodbye")
            if socket.close_code != 1000:
                raise Wrong(f"closed with {socket.close_code}")

    def offers_compression():
        with connect(uri, compression="deflate", open_timeout=DEADLINE) as socket:
            socket.send("hello " * 1000)
            if socket.recv(DEADLINE) != "hello " * 1000:
                raise Wrong("another message came back")

    return run([
        ("client a text", lambda: echo("κόσμε" * 1000)),
        ("client a megabyte", lambda: echo(os.urandom(1 << 20))),
        ("client fragments", lambda: fragments_of(uri)),
        ("client compression is offered", offers_compression),
        ("client a ping", pings),
        ("client an end", ends),
    ])


def fragments_of(uri):
    with connect(uri, open_timeout=DEADLINE) as socket:
        socket.send(["one ", "message ", "in parts"])
        if socket.recv(DEADLINE) != "one message in parts":
            raise Wrong("another message came back")


def goodbye(address):
    sockets = [connect("ws://%s:%d/ws" % address, open_timeout=DEADLINE) for _ in range(20)]
    for number, socket in enumerate(sockets):
        socket.send(str(number))
        if socket.recv(DEADLINE) != str(number):
            raise Wrong("another message came back")
    print("open", flush=True)

    def end_of(socket):
        try:
            message = socket.recv(DEADLINE)
        except ConnectionClosed:
            if socket.close_code == 1001:
                return "1001"
            raise Wrong(f"closed with {socket.close_code}") from None
        raise Wrong(f"{message!r} came")

    return run([(f"goodbye {number}", lambda socket=socket: end_of(socket)) for number, socket in enumerate(sockets)])


def main():
    address, how, *arguments = address_of(sys.argv[1]), *sys.argv[2:]
    match how:
        case "http1":
            return over(ByUpgrade, address, arguments)
        case "http2":
            return over(ByConnect, address, arguments)
        case "client":
            return client(address)
        case "goodbye":
            return goodbye(address)


if __name__ == "__main__":
    sys.exit(main())
