"""The recipe for devices that know only TLS 1.0: with stunnel in between they read their mail."""

import os
import poplib
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
import warnings
from pathlib import Path

from tool import DEPLOY, POPGATE, run

DEMO, POP3, POP3S, SUBMISSION, SUBMISSIONS = 28510, 28110, 28995, 28587, 28465
# The device's address, and one of another network.
DEVICE, ELSEWHERE = "127.0.0.7", "127.0.0.8"


class Tls10(unittest.TestCase):
    def test_a_client_of_tls_1_0_is_served(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
                "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
            demo = self.start(POPGATE, "demo", "--port-base", DEMO)
            imap, smtp = eventually(lambda: sample_servers(demo.pid))
            (folder / "popgate.toml").write_text(changed(DEPLOY / "stunnel/popgate.toml", {
                "127.0.0.1:1110": f"127.0.0.1:{POP3}",
                "127.0.0.1:1587": f"127.0.0.1:{SUBMISSION}",
                '"127.0.0.0/8", "192.168.7.0/24"': f'"127.0.0.1/32", "{DEVICE}/32"',
                "imaps://imap.example.com": f"imap://127.0.0.1:{imap}",
                "smtps://smtp.example.com": f"smtp://127.0.0.1:{smtp}",
            }))
            (folder / "stunnel.conf").write_text(changed(DEPLOY / "stunnel/popgate-tls1.conf", {
                "foreground = no": "foreground = yes",
                "setuid = stunnel4\nsetgid = stunnel4\n": "",
                "/run/stunnel4/": f"{folder}/",
                "/etc/popgate/": f"{folder}/",
                "192.168.7.1:995": f"127.0.0.1:{POP3S}",
                "192.168.7.1:465": f"127.0.0.1:{SUBMISSIONS}",
                "127.0.0.1:1110": f"127.0.0.1:{POP3}",
                "127.0.0.1:1587": f"127.0.0.1:{SUBMISSION}",
            }))
            self.start(POPGATE, "serve", "--config", folder / "popgate.toml",
                       env={**os.environ, "POPGATE__ADMIN__LISTEN": "off"})
            stunnel = self.start("stunnel4", folder / "stunnel.conf")

            mailbox = eventually(lambda: Mailbox(DEVICE))
            self.assertEqual(mailbox.sock.version(), "TLSv1")
            mailbox.user("demo")
            mailbox.pass_("demo")
            self.assertIn(b"Subject: ", b"\r\n".join(mailbox.retr(1)[1]))
            mailbox.quit()
            outbox = eventually(lambda: smtplib.SMTP_SSL("127.0.0.1", SUBMISSIONS, context=tls_1_0(), source_address=(DEVICE, 0)))
            outbox.login("demo", "demo")
            outbox.sendmail("scanner@example.org", ["you@example.org"], "Subject: scanned\r\n\r\nA page.\r\n")
            outbox.quit()
            # popgate goes by the client's address, and not by stunnel's.
            mailbox = Mailbox(ELSEWHERE)
            with self.assertRaisesRegex(poplib.error_proto, "TLS"):
                mailbox.user("demo")
                mailbox.pass_("demo")
            mailbox.close()
            # What Debian's init script goes by.
            self.assertEqual(int((folder / "popgate-tls1.pid").read_text()), stunnel.pid)
            # Others on the machine are served without a header.
            mailbox = poplib.POP3("127.0.0.1", POP3)
            mailbox.user("demo")
            mailbox.pass_("demo")
            mailbox.quit()

    def start(self, *command, **options):
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        return process


class Mailbox(poplib.POP3_SSL):
    """At stunnel, from this address."""

    def __init__(self, address):
        self.address = address
        super().__init__("127.0.0.1", POP3S, context=tls_1_0())

    def _create_socket(self, timeout):
        connection = socket.create_connection((self.host, self.port), source_address=(self.address, 0))
        return self.context.wrap_socket(connection, server_hostname=self.host)


def changed(file, changes):
    text = file.read_text()
    for written, here in changes.items():
        assert written in text, f"no {written} in {file}"
        text = text.replace(written, here)
    return text


def sample_servers(process):
    """The ports that the demo's own IMAP and submission servers were given."""
    sockets = {os.readlink(file.path) for file in os.scandir(f"/proc/{process}/fd")}
    greetings = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        port = int(fields[1].split(":")[1], 16)
        # 0A: it listens.
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets and not DEMO <= port <= DEMO + 477:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                greetings[connection.recv(1)] = port
    if set(greetings) != {b"*", b"2"}:
        raise ConnectionError("the demo does not listen yet")
    return greetings[b"*"], greetings[b"2"]


def tls_1_0():
    """A client that can nothing else, and looks at no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


def eventually(connect):
    for _ in range(40):
        try:
            return connect()
        except OSError as error:
            refused = error
            time.sleep(0.25)
    raise refused
