"""Unmodified POP3 clients fetch from real servers, twice in a row, keeping and deleting."""

import tempfile
import unittest

import clients
import daemons
import messages
import world

# What every client is expected to cope with; the rest of messages.AWKWARD breaks some of them by itself.
_MAILBOX = [
    messages.message("plain"),
    messages.message("leading dots", b".one\r\n..two\r\n...\r\n. \r\n.last\r\n"),
    messages.message("end of data inside", b"before\r\n.\r\n+OK\r\n.\r\nQUIT\r\nafter\r\n.\r\n"),
    messages.message("no final newline", b"first\r\nlast"),
    messages.message("bare LF", b"first\n.second\n..\n"),
    messages.message("blank lines", b"\r\n\r\ntext\r\n\r\n\r\n"),
    messages.message("8-bit", "Grüße 你好\r\n".encode()),
    # poplib reads no line of more than 2048 octets.
    messages.message("long lines", (b"x" * 1_900 + b"\r\n") * 100),
]


def _as_delivered(octets):
    """A message as the tests of all clients compare it."""
    return messages.pop3_form(octets).replace(b"\r\n", b"\n")


def _without_additions(delivered):
    """Without the header fields that a client puts in front, all of which we do not send."""
    at = delivered.find(b"From: Alice")
    return delivered[max(at, 0) :]


class Clients(world.TestCase):
    """Each client against each server, in each of its ways to secure the connection."""

    def check(self, client_type):
        expected = sorted(map(_as_delivered, _MAILBOX))
        for server in world.two_servers():
            for tls in client_type.tls_modes:
                for delete in (False, True):
                    with self.subTest(server=server.name, tls=tls, delete=delete):
                        self.check_twice(client_type, server, tls, delete, expected)

    def check_twice(self, client_type, server, tls, delete, expected):
        user = server.user("expunge").put(*_MAILBOX)
        with user.imap() as client:
            before = [held.uid for held in client.held(octets=False)]
        folder = tempfile.mkdtemp(prefix=client_type.__name__, dir=daemons.FOLDER)
        installed = client_type(folder, self.popgate, user, tls, delete)
        first, second = installed.fetch(), installed.fetch()
        self.assertEqual([_without_additions(delivered) for delivered in first], expected)
        if delete or client_type.remembers:
            self.assertEqual(second, [])
        else:
            self.assertEqual(second, first)
        with user.imap() as client:
            held = client.held(octets=False)
            self.assertEqual([message.uid for message in held], [] if delete else before)
            self.assertEqual([message.uid for message in held if {r"\Seen", r"\Deleted"} & message.flags], [])
            if not delete and client_type.remembers:
                user.put(messages.message("new"))
                self.assertEqual([b"Subject: new\n" in octets for octets in installed.fetch()], [True])

    def test_curl(self):
        self.check(clients.Curl)

    def test_fetchmail(self):
        self.check(clients.Fetchmail)

    def test_mpop(self):
        self.check(clients.Mpop)

    def test_getmail(self):
        self.check(clients.Getmail)

    def test_poplib(self):
        self.check(clients.Poplib)

    @world.on_each(world.two_servers)
    def test_mpop_pipelines_a_thousand(self, server):
        originals = messages.small(1000)
        user = server.user("expunge").put(*originals)
        folder = tempfile.mkdtemp(prefix="thousand", dir=daemons.FOLDER)
        delivered = clients.Mpop(folder, self.popgate, user, "implicit", delete=True).fetch()
        self.assertEqual(len(delivered), 1000)
        self.assertEqual(delivered, sorted(map(_as_delivered, originals)))
        with user.imap() as client:
            self.assertEqual(client.count(), 0)


if __name__ == "__main__":
    unittest.main()
