"""The log: one line for each session, which is found by what the client was told."""

import base64
import json
import re
import smtplib
import socketserver
import threading
import unittest

from prometheus_client import parser as text_parser

import watched
import daemons
import pop3
import servers


class SessionLines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        world = watched.world()
        imap = f"imaps://localhost:{world.dovecot.imaps_port}"
        legacy = "imap://127.0.0.1:1"
        environment = {"POPGATE_LOG": "popgate=debug"}
        cls.popgate = watched.Popgate("log", world.sink, imap, imap, legacy, ["--log-format", "json"], environment)

    @classmethod
    def tearDownClass(cls):
        cls.popgate.daemon.stop()

    def lines(self):
        return [json.loads(line) for line in self.popgate.daemon.log().splitlines()]

    def ended(self, session):
        def found():
            return [line["fields"] for line in self.lines()
                    if line["fields"].get("message") == "session ended" and line["fields"]["session"] == session]  # fmt: skip

        watched.daemons.wait_until(found, f"no line for session {session}")
        return found()

    def test_what_a_client_was_told_leads_to_its_session(self):
        with pop3.Client(self.popgate.pop3) as client:
            with self.assertRaises(pop3.Refused) as refused:
                client.login("somebody@legacy.example", servers.PASSWORD)
            session = re.search(r"\(([0-9a-f]{8})\)$", str(refused.exception))[1]
            client.quit()
        (line,) = self.ended(session)
        self.assertEqual((line["login"], line["upstream"], line["outcome"]), ("somebody@legacy.example", "legacy", "quit"))
        failures = [line for line in self.lines() if line["fields"].get("session") == session and "failure" in line["fields"]]
        self.assertEqual([line["level"] for line in failures], ["WARN"])
        # Whatever part of popgate says something within the session, names it.
        self.assertEqual(failures[0]["span"]["id"], session)

    def test_each_session_has_one_line(self):
        with pop3.Client(self.popgate.pop3) as client:
            client.login("one@office.example", servers.PASSWORD)
            client.quit()

        def lines():
            return [line for line in self.lines() if line["fields"].get("login") == "one@office.example"]

        watched.daemons.wait_until(lines, "no line")
        (line,) = [line for line in lines() if line["level"] != "DEBUG"]
        self.assertEqual((line["level"], line["fields"]["outcome"]), ("INFO", "quit"))


class Service:
    """A server that greets, answers each line with the same, and goes away."""

    def __init__(self, greeting, answer):
        class Session(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(greeting)
                while self.rfile.readline():
                    self.wfile.write(answer)

        self._server = socketserver.ThreadingTCPServer((daemons.HOST, 0), Session)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def go_away(self):
        self._server.shutdown()
        self._server.server_close()


class UpstreamGone(unittest.TestCase):
    """What is told of an upstream that could be reached before."""

    @classmethod
    def setUpClass(cls):
        cls.imap = Service(b"* OK [CAPABILITY IMAP4rev1] hello\r\n", b"* BYE\r\n")
        cls.submission = Service(b"220 hello\r\n", b"250-hello\r\n250 AUTH PLAIN\r\n")
        imap = f"imap://{daemons.HOST}:{cls.imap.port}"
        cls.popgate = watched.Popgate("gone", cls.submission, imap, imap, imap, ["--log-format", "json"])

    @classmethod
    def tearDownClass(cls):
        cls.popgate.daemon.stop()

    def told(self, message, upstream, service):
        lines = [json.loads(line) for line in self.popgate.daemon.log().splitlines()]
        return [line for line in lines if line["fields"].get("message") == message
                and (line["fields"]["upstream"], line["fields"]["service"]) == (upstream, service)]  # fmt: skip

    def failures(self, upstream):
        families = text_parser.text_string_to_metric_families(self.popgate.metrics()[0])
        return sum(sample.value for family in families for sample in family.samples
                   if sample.name == "popgate_upstream_errors_total" and sample.labels["upstream"] == upstream)  # fmt: skip

    def goes_away(self, service, upstream, name, log_in):
        watched.daemons.wait_until(lambda: self.told("upstream reached", upstream, name), f"{name} was not reached")
        before = self.failures(upstream)
        service.go_away()
        log_in()
        gone = "upstream cannot be reached any more"
        watched.daemons.wait_until(lambda: self.told(gone, upstream, name), "the log does not tell")
        (line,) = self.told(gone, upstream, name)
        self.assertEqual(line["level"], "WARN")
        self.assertRegex(line["fields"]["failure"], f"^upstream_unreachable: .*:{service.port}: .*refused")
        # One login that came to nothing is one failure.
        self.assertEqual(self.failures(upstream), before + 1)

    def test_a_mailbox(self):
        def log_in():
            with pop3.Client(self.popgate.pop3) as client, self.assertRaises(pop3.Refused):
                client.login("somebody@legacy.example", servers.PASSWORD)

        self.goes_away(self.imap, "legacy", "IMAP", log_in)

    def test_a_submission_service(self):
        def log_in():
            with smtplib.SMTP(daemons.HOST, self.popgate.smtp, timeout=30) as client:
                client.ehlo()
                # smtplib's own login would go on with the next mechanism.
                account = base64.b64encode(b"\0somebody@office.example\0" + servers.PASSWORD.encode()).decode()
                self.assertEqual(client.docmd("AUTH", f"PLAIN {account}")[0], 451)

        self.goes_away(self.submission, "office", "submission", log_in)
