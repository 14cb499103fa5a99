"""The log: one line for each session, which is found by what the client was told."""

import json
import re
import unittest

import watched
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
