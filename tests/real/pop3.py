"""A POP3 client that gives out exactly the octets it received."""

import base64
import socket

import daemons

SECONDS_MAX = 30


class Refused(Exception):
    """An answer of -ERR; its text is the argument."""


class Client:
    """One session, from the greeting on; `tls` is None, "implicit" or "stls", `source` the address it comes from."""

    def __init__(self, port, tls=None, context=None, source=""):
        self._socket = socket.create_connection((daemons.HOST, port), SECONDS_MAX, (source, 0))
        self._buffer = bytearray()
        self._context = context
        if tls == "implicit":
            self._wrap()
        self.greeting = self.status()
        if tls == "stls":
            self.ask(b"STLS")
            self._wrap()

    def _wrap(self):
        assert not self._buffer, "the other side talked before TLS"
        self._socket = self._context.wrap_socket(self._socket, server_hostname="localhost")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.drop()

    def login(self, login, password):
        """USER and PASS, octets as they are."""
        self.ask(b"USER " + login.encode())
        self.ask(b"PASS " + password.encode())
        return self

    def send(self, line):
        self._socket.sendall(line + b"\r\n")

    def ask(self, line):
        """Sends a command and returns the text after its +OK."""
        self.send(line)
        return self.status()

    def _line(self):
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._read()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def status(self):
        """Reads one status line and returns the text after its +OK."""
        line = self._line()
        if line.startswith(b"-ERR"):
            raise Refused(line[5:].decode())
        if not line.startswith(b"+OK"):
            raise AssertionError(f"neither +OK nor -ERR: {line[:200]!r}")
        return line[4:].decode()

    def answer_challenge(self, octets):
        """Reads a challenge of AUTH and answers it."""
        line = self._line()
        assert line.startswith(b"+ "), line
        self.send(base64.b64encode(octets))

    def multi_line(self):
        """Reads the lines up to the terminator and returns them with the byte-stuffing undone."""
        if self._starts_with(b".\r\n"):
            del self._buffer[:3]
            return b""
        searched = 0
        while (end := self._buffer.find(b"\r\n.\r\n", searched)) < 0:
            searched = max(0, len(self._buffer) - 4)
            self._read()
        stuffed = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 5]
        return _unstuffed(stuffed)

    def _starts_with(self, start):
        while len(self._buffer) < len(start):
            if not start.startswith(self._buffer):
                return False
            self._read()
        return self._buffer.startswith(start)

    def _read(self):
        octets = self._socket.recv(1 << 20)
        if not octets:
            raise EOFError(f"closed after {bytes(self._buffer[-200:])!r}")
        self._buffer += octets

    def listing(self, command):
        """The listing that LIST or UIDL gives, as a dictionary by message-number."""
        self.ask(command)
        lines = self.multi_line().decode().splitlines()
        return {int(number): value for number, _, value in (line.partition(" ") for line in lines)}

    def sizes(self):
        return {number: int(value) for number, value in self.listing(b"LIST").items()}

    def unique_ids(self):
        return self.listing(b"UIDL")

    def stat(self):
        """The drop listing: how many messages, and their octets."""
        count, octets = self.ask(b"STAT").split()[:2]
        return int(count), int(octets)

    def retr(self, number):
        self.ask(b"RETR %d" % number)
        return self.multi_line()

    def top(self, number, count):
        self.ask(b"TOP %d %d" % (number, count))
        return self.multi_line()

    def dele(self, *numbers):
        for number in numbers:
            self.ask(b"DELE %d" % number)

    def quit(self):
        """Ends the session and waits until the other side has closed."""
        answer = self.ask(b"QUIT")
        self.drop()
        return answer

    def drop(self):
        """Closes the connection without a word."""
        self._socket.close()


def _unstuffed(lines):
    # RFC 1939 §3: only CRLF ends a line, and a line that starts with a dot was given another.
    if b"\n" in lines.replace(b"\r\n", b""):
        raise AssertionError("a bare LF in a multi-line answer")
    out = []
    for line in lines.split(b"\r\n"):
        if line.startswith(b"."):
            if not line.startswith(b".."):
                raise AssertionError(f"a dot that was not stuffed: {line[:200]!r}")
            line = line[1:]
        out.append(line)
    return b"\r\n".join(out)
