"""Real clients send through popgate and real submission servers; what arrives is compared octet by octet."""

import base64
import functools
import re
import smtplib
import tempfile
import unittest

import certificates
import daemons
import messages
import popgate as popgate_daemon
import sending_clients
import servers
import submission_servers
import world


@functools.cache
def mailboxes():
    return submission_servers.Mailboxes()


@functools.cache
def postfix():
    return submission_servers.Postfix(mailboxes())


@functools.cache
def node():
    return submission_servers.NodeServer()


@functools.cache
def ports():
    return {"clear": daemons.free_port(), "implicit": daemons.free_port(), "dead": daemons.free_port()}


@functools.cache
def popgate():
    imap = f'imap = "imaps://localhost:{mailboxes().imaps_port}"\nca_file = "{certificates.upstream().ca_path}"'
    routes = ""
    for name, smtp in [
        ("postfix", f"smtp+starttls://localhost:{postfix().port}"),
        ("node", f"smtps://localhost:{node().port}"),
        ("lost", f"smtps://localhost:{ports()['dead']}"),
    ]:
        routes += f"""
[upstream.{name}]
{imap}
smtp = "{smtp}"

[[route]]
login = "{name}.*@{mailboxes().domain}"
upstream = "{name}"
"""
    extra = f"""
[smtp]
listen = ["{daemons.HOST}:{ports()["clear"]}"]
listen_tls = ["{daemons.HOST}:{ports()["implicit"]}"]
{routes}"""
    return popgate_daemon.Popgate([world.dovecot()], name="submission-popgate", extra=extra)


def as_delivered(octets):
    """A message as it must arrive: no CR or LF but in CRLF, and that at its end."""
    octets = re.sub(rb"\r(?!\n)", b" ", octets)
    octets = re.sub(rb"(?<!\r)\n", b"\r\n", octets)
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def without_trace(octets):
    """Without what servers put in front of the header."""
    return octets[octets.find(b"From: Alice") :]


# NUL is missing, which Dovecot hands out as 0x80.
_THROUGH_MAILBOX = [
    "plain",
    "empty body",
    "no final newline",
    "trailing blank lines",
    "leading dots",
    "end of data inside",
    "only dots",
    "bare CR",
    "8-bit",
    "control characters",
    "100 kB line",
    "looks like IMAP",
    "10 MB",
]


class Session:
    """A submission session whose octets are ours: smtplib would mend some of them."""

    def __init__(self, user):
        self.smtp = smtplib.SMTP_SSL("localhost", ports()["implicit"], context=certificates.own().client_context(), timeout=60)
        try:
            self.smtp.login(user.login, user.password)
        except smtplib.SMTPException:
            self.smtp.close()
            raise

    def raw(self, octets):
        self.smtp.send(octets)
        return self.smtp.getreply()

    def envelope(self, user, recipient):
        assert self.smtp.docmd("MAIL", f"FROM:<{user.login}>")[0] == 250
        assert self.smtp.docmd("RCPT", f"TO:<{recipient}>")[0] == 250
        return self.smtp.docmd("DATA")[0]

    def send(self, user, recipient, octets):
        assert self.envelope(user, recipient) == 354
        stuffed = re.sub(rb"(^|\r\n)\.", rb"\1..", octets)
        end = b".\r\n" if octets.endswith(b"\r\n") else b"\r\n.\r\n"
        return self.raw(stuffed + end)


class Submission(unittest.TestCase):
    """What is sent and what arrives."""

    def setUp(self):
        self.popgate = popgate()
        self.addCleanup(self._check_log)

    def _check_log(self):
        self.assertEqual(self.popgate.complaints(), [], "in popgate's log")

    def fetched(self, user, count):
        """What POP3 reads through popgate once so many messages have arrived."""

        def arrived():
            with user.imap() as client:
                return client.count() == count

        daemons.wait_until(arrived, f"{count} messages for {user}; Postfix says:\n{postfix().daemon.log()}")
        with self.popgate.session(user) as session:
            return [without_trace(session.retr(number)) for number in range(1, count + 1)]

    def test_sent_then_fetched_octet_by_octet(self):
        user = mailboxes().user("postfix")
        session = Session(user)
        for name in _THROUGH_MAILBOX:
            with self.subTest(name=name):
                code, text = session.send(user, user.login, messages.AWKWARD[name])
                self.assertEqual(code, 250, text)
        session.smtp.quit()
        expected = sorted(as_delivered(messages.AWKWARD[name]) for name in _THROUGH_MAILBOX)
        found = sorted(self.fetched(user, len(_THROUGH_MAILBOX)))
        for one, other in zip(found, expected):
            self.assertTrue(one == other, (one[:300], other[:300], len(one), len(other)))

    def test_every_client_in_each_of_its_ways(self):
        message = messages.message("from a client", b".one\r\n..two\r\n.\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n")
        for client_type in sending_clients.ALL:
            for tls in (None, "starttls", "implicit"):
                with self.subTest(client=client_type.__name__, tls=tls):
                    user = mailboxes().user("node")
                    folder = tempfile.mkdtemp(prefix=client_type.__name__, dir=daemons.FOLDER)
                    client_type(folder, ports(), user, tls).send(message, [f"ann@{mailboxes().domain}"])
                    taken = [without_trace(octets).rstrip(b"\r\n") for octets in node().take()]
                    self.assertEqual(taken, [message.rstrip(b"\r\n")])

    def test_wrong_password(self):
        user = servers.User(mailboxes(), mailboxes().login("postfix"), "not the password")
        for upstream in ("postfix", "node"):
            user.login = mailboxes().login(upstream)
            with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
                Session(user)
            self.assertEqual(caught.exception.smtp_code, 535)

    def test_lost_upstream_is_no_wrong_password(self):
        with self.assertRaises(smtplib.SMTPException) as caught:
            Session(mailboxes().user("lost"))
        self.assertEqual(caught.exception.smtp_code, 451)

    def test_one_recipient_refused(self):
        user = mailboxes().user("postfix")
        session = Session(user)
        nobody = f"nobody@{mailboxes().domain}"
        refused = session.smtp.sendmail(user.login, [user.login, nobody], messages.message("some refused"))
        session.smtp.quit()
        self.assertEqual(list(refused), [nobody])
        self.assertEqual(refused[nobody][0] // 100, 5)
        self.assertEqual(self.fetched(user, 1), [messages.message("some refused")])

    def test_nothing_is_smuggled(self):
        user = mailboxes().user("node")
        inner = f"MAIL FROM:<{user.login}>\r\nRCPT TO:<ann@{mailboxes().domain}>\r\nDATA\r\nsmuggled\r\n".encode()
        ends = [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\r\n.\r\r\n", b"\r\n.\r\r\n", b"\r\n\0.\r\n"]
        for end in ends:
            with self.subTest(end=end):
                session = Session(user)
                self.assertEqual(session.envelope(user, f"ann@{mailboxes().domain}"), 354)
                message = messages.message("outer", b"text" + end + inner)
                code, _ = session.raw(message + b".\r\n")
                self.assertEqual(code, 250)
                session.smtp.quit()
                taken = [without_trace(octets) for octets in node().take()]
                self.assertEqual(len(taken), 1)
                self.assertEqual(re.findall(rb"\r(?!\n)|(?<!\r)\n", taken[0]), [])

    def test_a_sent_copy_is_stored_once(self):
        user = mailboxes().user("postfix")
        session = Session(user)
        message = messages.message("copied", b".dots\r\n")
        self.assertEqual(session.send(user, user.login, message)[0], 250)
        session.smtp.quit()

        def copies():
            with user.imap() as client:
                client.command("SELECT", "Verschickt")
                return client.held(folder="Verschickt")

        daemons.wait_until(copies, "no copy of the sent message")
        held = copies()
        self.assertEqual([without_trace(message.octets) for message in held], [message])
        self.assertIn(r"\Seen", held[0].flags)

    def test_memory_stays_flat(self):
        user = mailboxes().user("node")
        session = Session(user)
        before = self.popgate.daemon.restart_memory_peak()
        # As large as limits.message_octets permits.
        body = (base64.b64encode(bytes(57)) + b"\r\n") * ((150 * 1024 * 1024 - 10_000) // 78)
        message = messages.message("large", body)
        code, text = session.send(user, f"ann@{mailboxes().domain}", message)
        self.assertEqual(code, 250, text)
        session.smtp.quit()
        taken = [without_trace(octets) for octets in node().take()]
        # Not assertEqual, which would print them.
        self.assertTrue(taken == [message], [len(octets) for octets in taken])
        growth = self.popgate.daemon.memory_peak() - before
        self.assertLess(growth, 16 * 1024, "KiB")


if __name__ == "__main__":
    unittest.main()
