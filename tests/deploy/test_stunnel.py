"""The recipe for devices that know only TLS 1.0: with stunnel in between they read their mail."""

import poplib
import smtplib
import ssl
import subprocess
import tempfile
import time
import unittest
import warnings
from pathlib import Path

from tool import DEPLOY, POPGATE, run

POP3, POP3S, SUBMISSIONS = 28110, 28995, 28465


class Tls10(unittest.TestCase):
    def test_a_client_of_tls_1_0_is_served(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
                "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
            config = (DEPLOY / "stunnel/popgate-tls1.conf").read_text()
            for written, here in {
                "foreground = no": "foreground = yes",
                "setuid = stunnel4\nsetgid = stunnel4\n": "",
                "/etc/popgate/": f"{folder}/",
                "192.168.7.1:995": f"127.0.0.1:{POP3S}",
                "192.168.7.1:465": f"127.0.0.1:{SUBMISSIONS}",
                "127.0.0.1:1110": f"127.0.0.1:{POP3}",
                "127.0.0.1:1587": f"127.0.0.1:{POP3 + 477}",
            }.items():
                self.assertIn(written, config)
                config = config.replace(written, here)
            (folder / "stunnel.conf").write_text(config)
            for command in ([POPGATE, "demo", "--port-base", str(POP3)], ["stunnel4", folder / "stunnel.conf"]):
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.addCleanup(process.wait)
                self.addCleanup(process.terminate)
            mailbox = eventually(lambda: poplib.POP3_SSL("127.0.0.1", POP3S, context=tls_1_0()))
            self.assertEqual(mailbox.sock.version(), "TLSv1")
            mailbox.user("demo")
            mailbox.pass_("demo")
            self.assertIn(b"Subject: ", b"\r\n".join(mailbox.retr(1)[1]))
            mailbox.quit()
            outbox = eventually(lambda: smtplib.SMTP_SSL("127.0.0.1", SUBMISSIONS, context=tls_1_0()))
            outbox.login("demo", "demo")
            outbox.sendmail("scanner@example.org", ["you@example.org"], "Subject: scanned\r\n\r\nA page.\r\n")
            outbox.quit()


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
