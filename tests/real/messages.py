"""A mailbox of awkward messages, and what POP3 makes of a message."""

import random
import re

_HEADER = b"From: Alice <alice@example.org>\r\nTo: bob@example.org\r\nDate: Mon, 3 Feb 2025 10:00:00 +0000\r\n"


def message(subject, body=b"Hello.\r\n"):
    """An ordinary message, told from others by its Subject."""
    name = subject.encode()
    return _HEADER + b"Message-ID: <%s@example.org>\r\nSubject: %s\r\n\r\n" % (name, name) + body


def small(count):
    """Ordinary messages named m1, m2, ….

    Each has another size, so that a listing which is out of step cannot look right.
    """
    return [message(f"m{number}", b"x" * number + b"\r\n") for number in range(1, count + 1)]


def _ten_megabytes():
    # Lines of all lengths with dots at many starts, so that every boundary of a read falls into something.
    chance = random.Random(1939)
    lines = [b"." * chance.randrange(3) + b"x" * chance.randrange(200) for _ in range(100_000)]
    return b"\r\n".join(lines) + b"\r\n"


# In the order in which they are put into the mailbox, named by what is awkward about them.
AWKWARD = {
    "plain": message("plain"),
    "octet-less": b"",
    "empty body": message("empty body", b""),
    "header without blank line": _HEADER + b"Subject: header without blank line\r\n",
    "header without any line end": b"Subject: header without any line end",
    "blank line only": b"\r\n",
    "body without header": b"\r\nbody\r\nin two lines\r\n",
    "no final newline": message("no final newline", b"first\r\nlast"),
    "no final newline after a dot": message("no final newline after a dot", b"first\r\n."),
    "trailing blank lines": message("trailing blank lines", b"text\r\n\r\n\r\n\r\n"),
    "first octet a dot": b".Subject: first octet a dot\r\nFrom: a@example.org\r\n\r\nbody\r\n",
    "first line a lone dot": b".\r\nSubject: first line a lone dot\r\n\r\nbody\r\n",
    "a lone dot": b".",
    "a lone dot and line end": b".\r\n",
    "leading dots": message("leading dots", b".first\r\n..two\r\n...\r\nmid . dle\r\n. \r\n.last\r\n"),
    "end of data inside": message("end of data inside", b"before\r\n.\r\n+OK\r\n.\r\nQUIT\r\nafter\r\n.\r\n"),
    "only dots": message("only dots", b".\r\n" * 30_000),
    "bare LF": message("bare LF").replace(b"\r\n", b"\n"),
    "bare LF and dots": message("bare LF and dots", b"text\n.\n..\n.x\r\n.\n\n."),
    "LF and CRLF mixed": b"Subject: LF and CRLF mixed\nFrom: a@example.org\r\n\nbody\r\nbody\n\r\nbody\n",
    "bare CR": message("bare CR", b"one\rtwo\r\r\nthree\r.\rfour\r\n\r\r\n.\r"),
    "CR at the very end": message("CR at the very end", b"text\r"),
    "NUL": message("NUL", b"a\0b\r\n\0\r\n\0\0\0.\r\n.\0\r\n"),
    "8-bit": message("8-bit", "Grüße 你好\r\n".encode() + bytes(range(128, 256)) + b"\r\n"),
    "8-bit header": b"Subject: 8-bit header \xff\xfe \xe4\r\nFrom: \xc3\xa4@example.org\r\n\r\nbody\r\n",
    "control characters": message("control characters", bytes(set(range(1, 32)) - {10, 13}) + b"\x7f\r\n\x1a\r\n"),
    "100 kB line": message("100 kB line", b"." + b"y" * 100_000 + b"\r\n.\r\n"),
    "100 kB header line": _HEADER + b"X-Long: " + b"z" * 100_000 + b"\r\nSubject: 100 kB header line\r\n\r\nbody\r\n",
    "looks like IMAP": message("looks like IMAP", b")\r\na1 OK FETCH completed\r\n* 1 EXPUNGE\r\n{5}\r\nabc\r\n"),
    "10 MB": message("10 MB", _ten_megabytes()),
}


def pop3_form(octets):
    """A message as POP3 hands it out, before byte-stuffing: every line, also the last, ends with CRLF."""
    octets = re.sub(rb"(?<!\r)\n", b"\r\n", octets)
    if octets and not octets.endswith(b"\r\n"):
        octets += b"\r\n"
    return octets


def top_forms(octets, count):
    """What TOP with `count` body lines may answer, of a message in its POP3 form."""
    if octets.startswith(b"\r\n"):
        end = 2
    else:
        end = octets.find(b"\r\n\r\n") + 4
        if end == 3:
            # Header only. RFC 1939 has TOP send "the headers of the message, the blank line", so one may be added.
            return [octets, octets + b"\r\n"]
    lines = octets[end:].split(b"\r\n")[:-1]
    return [octets[:end] + b"".join(line + b"\r\n" for line in lines[:count])]
