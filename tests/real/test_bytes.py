"""Every octet of every awkward message, compared with what the server itself holds."""

import functools
import unittest

import messages
import world


@functools.cache
def _user_with_awkward_messages(server, kind):
    return server.user(kind).put(*messages.AWKWARD.values())


@functools.cache
def _held(user):
    with user.imap() as client:
        return client.held()


def _seen(user):
    """The positions, from 1, of the messages that are marked as seen."""
    with user.imap() as client:
        return [at for at, held in enumerate(client.held(octets=False), 1) if r"\Seen" in held.flags]


def _name(octets):
    """The name of the message in messages.AWKWARD, however the server changed it."""
    for name, original in messages.AWKWARD.items():
        if _comparable(original) == _comparable(octets):
            return name
    raise AssertionError(f"the server holds what was never put there: {octets[:200]!r}")


def _comparable(octets):
    # Dovecot hands out LF as CRLF and, outside of BINARY, NUL as 0x80.
    return octets.replace(b"\r\n", b"\n").replace(b"\0", b"\x80")


class Bytes(world.TestCase):
    """Reading the awkward mailbox."""

    def assert_same(self, got, wanted):
        """assertEqual, but able to fail in less than a minute for ten megabytes."""
        # Whether no octet at all is a message without final line end, no RFC says.
        if got == wanted or (wanted == b"" and got == b"\r\n"):
            return
        pairs = zip(got, wanted)
        at = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(got), len(wanted)))
        start = max(0, at - 20)
        self.fail(
            f"{len(got)} octets, wanted {len(wanted)}; they differ at {at}: "
            f"got {got[start : at + 40]!r}, wanted {wanted[start : at + 40]!r}"
        )

    @world.on_each(world.two_servers)
    def test_the_server_holds_the_awkward_messages(self, server):
        names = [_name(held.octets) for held in _held(_user_with_awkward_messages(server, "plain"))]
        # Cyrus removes a file without octets from its spool.
        self.assertEqual(names, [name for name in messages.AWKWARD if (server.name, name) != ("cyrus", "octet-less")])

    @world.on_each(world.two_servers)
    def test_retr_and_top(self, server):
        user = _user_with_awkward_messages(server, "plain")
        for number, held in enumerate(_held(user), 1):
            # A session each, so that what goes wrong with one message does not spoil the others.
            with self.subTest(message=_name(held.octets)), self.popgate.session(user) as session:
                self._check_retr_and_top(session, number, messages.pop3_form(held.octets))
        self.assertEqual(_seen(user), [])

    def _check_retr_and_top(self, session, number, wanted):
        self.assert_same(session.retr(number), wanted)
        for count in (0, 1, 5, 99_999_999):
            got = session.top(number, count)
            forms = messages.top_forms(wanted, count)
            self.assert_same(got, got if got in forms else forms[0])
        session.quit()

    @world.on_each(world.two_servers)
    def test_pipelined_retr_over_tls(self, server):
        for tls, kind in (("stls", "starttls"), ("implicit", "imaps")):
            user = _user_with_awkward_messages(server, kind)
            with self.subTest(tls=tls), self.popgate.session(user, tls) as session:
                # All at once; they fit into the sockets' buffers, so nobody waits for us to read.
                session.send(b"\r\n".join(b"RETR %d" % number for number in range(1, len(_held(user)) + 1)))
                for held in _held(user):
                    session.status()
                    self.assert_same(session.multi_line(), messages.pop3_form(held.octets))
                session.quit()

    @world.on_each(world.two_servers)
    def test_sizes_are_exact_where_the_server_s_are(self, server):
        # Nobody has retrieved from this one before.
        user = server.user("plain").put(*messages.AWKWARD.values())
        with user.imap() as client:
            exact = {
                number: held.size
                for number, held in enumerate(client.held(), 1)
                if held.size == len(messages.pop3_form(held.octets))
            }
        with self.popgate.session(user) as session:
            sizes = session.sizes()
            self.assertGreater(len(exact), 10)
            self.assertEqual({number: sizes[number] for number in exact}, exact)

    @world.on_each(world.two_servers)
    def test_sizes_are_exact_from_the_second_session_on(self, server):
        user = server.user("plain").put(*messages.AWKWARD.values())
        with self.popgate.session(user) as session:
            sent = {number: len(session.retr(number)) for number in session.sizes()}
            session.quit()
        with self.popgate.session(user) as session:
            self.assertEqual(session.sizes(), sent)
            self.assertEqual(session.stat(), (len(sent), sum(sent.values())))
            for number, size in sent.items():
                self.assertEqual(session.ask(b"LIST %d" % number), f"{number} {size}")

    @world.on_each(world.two_servers)
    def test_seen_at_quit_for_what_was_retrieved(self, server):
        user = server.user("seen").put(*messages.small(4))
        with self.popgate.session(user) as session:
            session.retr(1)
        self.popgate.wait_until_idle()
        self.assertEqual(_seen(user), [], "without QUIT")
        with self.popgate.session(user) as session:
            session.retr(2)
            session.top(3, 0)
            session.top(3, 1)
            self.assertEqual(_seen(user), [], "before QUIT")
            session.quit()
        self.assertEqual(_seen(user), [2])

    @world.on_each(world.two_servers)
    def test_a_thousand_small_messages(self, server):
        originals = messages.small(1000)
        with self.popgate.session(server.user("plain").put(*originals)) as session:
            self.assertEqual(session.stat(), (1000, sum(map(len, originals))))
            self.assertEqual(list(session.sizes().values()), [len(octets) for octets in originals])
            self.assertEqual(len(set(session.unique_ids().values())), 1000)
            got = []
            for start in range(1, 1001, 100):
                numbers = range(start, start + 100)
                session.send(b"\r\n".join(b"RETR %d" % number for number in numbers))
                for _ in numbers:
                    session.status()
                    got.append(session.multi_line())
            session.quit()
        # A list of a thousand differences helps nobody.
        wrong = [number for number, pair in enumerate(zip(got, originals), 1) if pair[0] != pair[1]]
        self.assertEqual(wrong, [])

    def test_a_large_message_costs_no_memory(self):
        user = world.dovecot().user("plain").put(messages.message("large", (b"y" * 76 + b"\r\n") * 800_000))
        with self.popgate.session(user) as session:
            # The listing and the first reads have their buffers by then.
            session.top(1, 1)
            before = self.popgate.daemon.restart_memory_peak()
            self.assertGreater(len(session.retr(1)), 60_000_000)
            grown = self.popgate.daemon.memory_peak() - before
            self.assertLess(grown, 4 * 1024, "KiB more while 60 MB went through")
            session.quit()

    @world.on_each(world.two_servers)
    def test_an_empty_mailbox(self, server):
        with self.popgate.session(server.user("plain")) as session:
            self.assertEqual(session.stat(), (0, 0))
            self.assertEqual(session.sizes(), {})
            self.assertEqual(session.unique_ids(), {})
            session.quit()


if __name__ == "__main__":
    unittest.main()
