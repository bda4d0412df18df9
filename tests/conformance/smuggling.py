#!/usr/bin/env python3
"""Raw HTTP/1 shapes on which a proxy in front and a server behind it may disagree, against nginx's answers.

    python3 smuggling.py 127.0.0.1:3000 [name ...]

Behind each shape comes a sound request, `/probe`, on the same connection. What is compared is who was answered: `shape probe` if both
were, `400` if the shape was refused and the connection closed, `closed` if that was done without a word. A shape that holds another
request (`/smuggled`) in its body or behind a doubtful length must never have that answered. Where the server takes what nginx refuses,
or the other way round, the table says why it may; nginx is expected to answer as the table says, too, so that it is known what is
compared. nginx is started here, on a Unix socket.
"""

import concurrent.futures
import os
import socket
import subprocess
import sys
import tempfile
import time

from table import DEADLINE, Wrong, address_of, run, selected

PROBE = b"GET /probe HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test.example\r\n\r\n"
BOTH, REFUSED = "shape probe", "400"
SHAPES = []


def shape(name, raw, ours, nginx=None, why=""):
    """`ours` is what the server has to answer, `nginx` what that does: alike, unless there is a reason."""
    SHAPES.append((name, raw, ours, ours if nginx is None else nginx, why))


def head(*lines, start="POST /shape HTTP/1.1", host=True, end="\r\n"):
    first = [start, "Host: test.example"] if host else [start]
    return "".join(line + end for line in (*first, *lines, "")).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"
BODY = b"5\r\nhello\r\n0\r\n\r\n"
# A body that is empty for those who read chunks, and holds a request for those who read the length.
HIDDEN = b"0\r\n\r\n" + SMUGGLED

# ---- two lengths ----

shape("a length", head("Content-Length: 5") + b"hello", BOTH)
shape("chunks", head(CHUNKED) + BODY, BOTH)
shape("no length", head(), BOTH)
shape("a length and chunks", head(f"Content-Length: {len(HIDDEN)}", CHUNKED) + HIDDEN, REFUSED)
shape("chunks and a length", head(CHUNKED, f"Content-Length: {len(HIDDEN)}") + HIDDEN, REFUSED)
shape("a length and chunks in HTTP/1.0",
      head("Content-Length: 5", CHUNKED, "Connection: keep-alive", start="POST /shape HTTP/1.0") + BODY, REFUSED)
shape("the same length twice", head("Content-Length: 5", "Content-Length: 5") + b"hello", BOTH, REFUSED,
      "RFC 9110 8.6 lets equal values count as one")
shape("two different lengths", head("Content-Length: 5", f"Content-Length: {5 + len(SMUGGLED)}") + b"hello" + SMUGGLED, REFUSED)
shape("a list of equal lengths", head("Content-Length: 5, 5") + b"hello", REFUSED)
shape("a list of different lengths", head("Content-Length: 5, 6") + b"hello", REFUSED)

# ---- doubtful lengths ----

shape("a length with a plus", head("Content-Length: +5") + b"hello", REFUSED)
shape("a length with a minus", head("Content-Length: -5") + b"hello", REFUSED)
shape("a length in hexadecimal", head("Content-Length: 0x5") + b"hello", REFUSED)
shape("a length with a letter", head("Content-Length: 5a") + b"hello", REFUSED)
shape("a length with a fraction", head("Content-Length: 5.0") + b"hello", REFUSED)
shape("an empty length", head("Content-Length:") + b"hello", REFUSED)
shape("a length in quotes", head('Content-Length: "5"') + b"hello", REFUSED)
shape("a length of 2^64", head(f"Content-Length: {2**64}") + b"hello", REFUSED)
shape("a length of 2^64 and 5", head(f"Content-Length: {2**64 + 5}") + b"hello", REFUSED)
shape("a length with leading zeros", head("Content-Length: 0005") + b"hello", BOTH)
shape("a length with spaces around it", head("Content-Length:   5  ") + b"hello", BOTH)
shape("a length behind a tab", head("Content-Length:\t5") + b"hello", BOTH, REFUSED, "RFC 9110 5.6.3 allows the tab")
shape("a length behind a vertical tab", head("Content-Length: \x0b5") + b"hello", REFUSED)
shape("a space before the colon of a length", head("Content-Length : 5") + b"hello", REFUSED)
shape("a length with an underscore in its name", head("Content_Length: 5"), BOTH)
shape("a length of a GET", head("Content-Length: 5", start="GET /shape HTTP/1.1") + b"hello", BOTH)

# ---- doubtful codings ----

shape("a coding in capitals", head("Transfer-Encoding: Chunked") + BODY, BOTH)
shape("a coding with a space behind it", head("Transfer-Encoding: chunked ") + BODY, BOTH)
shape("another coding before chunks", head("Transfer-Encoding: gzip, chunked") + BODY, BOTH, "501",
      "RFC 9112 6.3: chunks come last, and so frame the body; the application sees the line")
shape("another coding behind chunks", head("Transfer-Encoding: chunked, gzip") + BODY, REFUSED, "501")
shape("chunks twice in a list", head("Transfer-Encoding: chunked, chunked") + BODY, BOTH, "501",
      "RFC 9112 6.1 forbids it to the sender; framed by the last, and once")
shape("chunks twice in two lines", head(CHUNKED, CHUNKED) + BODY, BOTH, REFUSED,
      "as in a list")
shape("chunks and then identity", head(CHUNKED, "Transfer-Encoding: identity") + BODY, REFUSED)
shape("identity and then chunks", head("Transfer-Encoding: identity", CHUNKED) + BODY, BOTH, REFUSED,
      "RFC 9112 6.3: chunks come last, and so frame the body")
shape("identity", head("Transfer-Encoding: identity") + b"", REFUSED, "501")
shape("a coding that is not known", head("Transfer-Encoding: xchunked") + BODY, REFUSED, "501")
shape("a coding in quotes", head('Transfer-Encoding: "chunked"') + BODY, REFUSED, "501")
shape("a coding with a parameter", head("Transfer-Encoding: chunked;q=1") + BODY, REFUSED, "501")
shape("an empty coding", head("Transfer-Encoding:") + BODY, REFUSED, "501")
shape("a coding behind a vertical tab", head("Transfer-Encoding: \x0bchunked") + BODY, REFUSED, "501")
shape("a space before the colon of a coding", head("Transfer-Encoding : chunked") + BODY, REFUSED)
shape("a coding with an underscore in its name", head("Transfer_Encoding: chunked", "Content-Length: 15") + BODY, BOTH)
shape("a coding on a line of its own", head("Transfer-Encoding:\r\n chunked") + BODY, REFUSED)
shape("chunks in HTTP/1.0", head(CHUNKED, start="POST /shape HTTP/1.0") + BODY, REFUSED)

# ---- doubtful chunks ----

shape("a chunk with an extension", head(CHUNKED) + b"5;name=value\r\nhello\r\n0\r\n\r\n", BOTH)
shape("a chunk's size in capitals", head(CHUNKED) + b"A\r\nhellohello\r\n0\r\n\r\n", BOTH)
shape("a chunk's size with zeros", head(CHUNKED) + b"0005\r\nhello\r\n0\r\n\r\n", BOTH)
shape("a chunk's size with 0x", head(CHUNKED) + b"0x5\r\nhello\r\n0\r\n\r\n", REFUSED)
shape("a chunk's size with a minus", head(CHUNKED) + b"-5\r\nhello\r\n0\r\n\r\n", REFUSED)
shape("a chunk's size with a plus", head(CHUNKED) + b"+5\r\nhello\r\n0\r\n\r\n", REFUSED)
shape("a chunk's size of 2^64 and 5", head(CHUNKED) + b"10000000000000005\r\nhello\r\n0\r\n\r\n", REFUSED)
shape("no chunk's size", head(CHUNKED) + b"\r\nhello\r\n0\r\n\r\n", REFUSED)
shape("a space behind a chunk's size", head(CHUNKED) + b"5 \r\nhello\r\n0\r\n\r\n", BOTH)
shape("a bare LF behind a chunk's size", head(CHUNKED) + b"5\nhello\r\n0\r\n\r\n", REFUSED, BOTH,
      "RFC 9112 2.2 allows a bare LF in heads only, and others see no end of line here")
shape("a bare LF in a chunk's extension", head(CHUNKED) + b"5;a\nhello\r\n0\r\n\r\n" + SMUGGLED, REFUSED, "shape smuggled probe",
      "as behind a chunk's size; nginx sees another request behind it")
shape("a bare LF behind a chunk", head(CHUNKED) + b"5\r\nhello\n0\r\n\r\n", REFUSED, BOTH,
      "as behind a chunk's size")
shape("nothing behind a chunk", head(CHUNKED) + b"5\r\nhello0\r\n\r\n", REFUSED)
shape("a chunk that is longer than it says", head(CHUNKED) + b"5\r\nhello world\r\n0\r\n\r\n", REFUSED)
shape("trailers", head(CHUNKED) + b"5\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n", BOTH)
shape("a length among trailers", head(CHUNKED) + b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n", BOTH)

# ---- doubtful heads ----

shape("lines that end in LF", head("Content-Length: 5", end="\n") + b"hello", BOTH)
shape("a bare CR in a value", head("X-Test: a\rContent-Length: 5") + b"", REFUSED)
shape("a NUL in a value", head("X-Test: a\0b"), REFUSED)
shape("a value on a line of its own", head("X-Test: a\r\n b"), REFUSED)
shape("a line without a colon", head("X-Test"), REFUSED, BOTH,
      "RFC 9112 5 knows no such line; nginx drops it")
shape("a line without a name", head(": test"), REFUSED)
shape("a space in a name", head("X Test: a"), REFUSED)
shape("a space before the first name", head(start="POST /shape HTTP/1.1\r\n X-Test: a"), REFUSED)
shape("no Host", head(start="GET /shape HTTP/1.1", host=False), REFUSED)
shape("two Hosts", head("Host: other.example", start="GET /shape HTTP/1.1"), REFUSED)
shape("no Host in HTTP/1.0", head("Connection: keep-alive", start="GET /shape HTTP/1.0", host=False), BOTH)
shape("another Host than the target's", head(start="GET http://other.example/shape HTTP/1.1"), BOTH)
shape("empty lines before a request", b"\r\n\r\n" + head(start="GET /shape HTTP/1.1"), BOTH)
shape("a target with a space", head(start="GET /sha pe HTTP/1.1"), REFUSED)
shape("a tab for a space", head(start="GET\t/shape HTTP/1.1"), REFUSED)
shape("HTTP/2.0 in a request line", head(start="GET /shape HTTP/2.0"), REFUSED, "505")
shape("a request behind the last one", head("Connection: close", start="GET /shape HTTP/1.1") + SMUGGLED, "shape")


class Answers:
    """What comes back on a connection, as far as it is needed."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, b""

    def more(self):
        try:
            data = self.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            if not self.more():
                return None
        part, _, self.buffer = self.buffer.partition(mark)
        return part

    def next(self):
        """Who was answered, or with what else than 200; `None` at the end."""
        head = self.until(b"\r\n\r\n")
        if head is None:
            if self.buffer:
                raise Wrong(f"{self.buffer!r} is no answer")
            return None
        lines = head.lower().split(b"\r\n")
        status = lines[0].split(b" ")[1].decode()
        if status.startswith("1"):
            return self.next()
        lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
        if lengths:
            while len(self.buffer) < lengths[0] and self.more():
                pass
            body, self.buffer = self.buffer[:lengths[0]], self.buffer[lengths[0]:]
        else:
            body = b""
            while (size := int(self.until(b"\r\n") or b"0", 16)) > 0:
                while len(self.buffer) < size + 2 and self.more():
                    pass
                body, self.buffer = body + self.buffer[:size], self.buffer[size + 2:]
            self.until(b"\r\n")
        if status != "200":
            return status
        return body.split()[1].decode().split("?")[0].rpartition("/")[2]


def answered(connect, raw):
    with connect() as connection:
        connection.settimeout(DEADLINE)
        try:
            connection.sendall(raw + PROBE)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answers, seen = Answers(connection), []
        try:
            while (one := answers.next()) is not None:
                seen.append(one)
        except TimeoutError:
            seen.append("waits")
        return " ".join(seen) or "closed"


def checked(server, nginx, raw, ours, theirs, why):
    def case():
        seen, by_nginx = answered(server, raw), answered(nginx, raw)
        if "smuggled" in seen:
            raise Wrong(f"the request within was answered: {seen}")
        if (seen, by_nginx) != (ours, theirs):
            raise Wrong(f"answered {seen!r} where {ours!r} is right; nginx answered {by_nginx!r} where {theirs!r} was expected")
        if kind(seen) == kind(by_nginx):
            return seen
        if not why:
            raise Wrong(f"answered {seen!r}, and nginx {by_nginx!r}, and there is no reason")
        return f"{seen}; nginx: {by_nginx} ({why})"

    return case


def kind(seen):
    """All ways to refuse are alike."""
    return " ".join("refused" if word[0] in "45" else word for word in seen.split())


NGINX = """
daemon off; master_process off; pid {place}/pid; error_log stderr crit;
events {{}}
http {{
    access_log off; client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place}; uwsgi_temp_path {place};
    scgi_temp_path {place};
    server {{ listen unix:{place}/socket; location / {{ return 200 "$request_method $request_uri\\n"; }} }}
}}
"""


def unix(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE)
    connection.connect(path)
    return connection


def start_nginx(place):
    path = os.path.join(place, "nginx.conf")
    with open(path, "w", encoding="ascii") as file:
        file.write(NGINX.format(place=place))
    process = subprocess.Popen(["nginx", "-p", place, "-c", path], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            unix(f"{place}/socket").close()
            return process
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise
            time.sleep(0.01)


def main():
    server = address_of(sys.argv[1])
    with tempfile.TemporaryDirectory() as place:
        process = start_nginx(place)
        try:
            cases = [(name, checked(lambda: socket.create_connection(server, timeout=DEADLINE), lambda: unix(f"{place}/socket"), *rest))
                     for name, *rest in SHAPES]
            cases = selected(cases, sys.argv[2:])
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                futures = [(name, pool.submit(case)) for name, case in cases]
                return run([(name, future.result) for name, future in futures])
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
