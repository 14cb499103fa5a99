"""The units: how much they hold popgate in, and that it can do its work within that."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from tool import DEPLOY, POPGATE, output, run, skip

UNITS = DEPLOY / "systemd"
EXPOSURE_MAX = 1.5
PORTS = {"pop3": "110", "pop3s": "995", "submission": "587", "submissions": "465"}


class Service(unittest.TestCase):
    def test_it_is_exposed_little(self):
        said = output("systemd-analyze", "security", "--offline=true", UNITS / "popgate.service")
        exposure = float(re.search(r"Overall exposure level for popgate.service: (\S+)", said)[1])
        self.assertLessEqual(exposure, EXPOSURE_MAX, said)

    def test_systemd_understands_the_units(self):
        with tempfile.TemporaryDirectory() as folder:
            for unit in UNITS.iterdir():
                # Which need not be installed here.
                (Path(folder) / unit.name).write_text(unit.read_text().replace("/usr/bin/popgate", str(POPGATE)))
            units = sorted(path for path in Path(folder).iterdir() if path.suffix in (".service", ".socket"))
            outcome = run("systemd-analyze", "verify", "--man=no", "--generators=no", *units)
            about_ours = [line for line in outcome.stderr.splitlines() if "popgate" in line]
            self.assertEqual(about_ours, [])

    def test_popgate_says_when_it_is_ready_reloads_and_stops(self):
        self.assertIn("\nType=notify\n", (UNITS / "popgate.service").read_text())
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(f"{folder}/notify")
            systemd.settimeout(20)
            popgate = start(folder, NOTIFY_SOCKET=f"{folder}/notify")
            try:
                self.assertEqual(systemd.recv(1000).split()[0], b"READY=1")
                popgate.send_signal(signal.SIGHUP)
                self.assertEqual(systemd.recv(1000).split()[0], b"RELOADING=1")
                self.assertEqual(systemd.recv(1000).split()[0], b"READY=1")
                popgate.terminate()
                self.assertEqual(systemd.recv(1000).split()[0], b"STOPPING=1")
                self.assertEqual(popgate.wait(timeout=60), 0)
            finally:
                popgate.kill()
                popgate.wait()

    def test_what_popgate_asks_of_the_kernel_is_permitted(self):
        """Seen with strace: listeners, a session of the demo, a message sent, and the end."""
        permitted = syscalls((UNITS / "popgate.service").read_text())
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace"
            demo = subprocess.Popen(
                ["strace", "--follow-forks", "--quiet=all", "--signal=none", f"--output={trace}",
                 str(POPGATE), "demo", "--port-base", "29110"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            try:
                curl = ("curl", "--silent", "--max-time", "20", "--user", "demo:demo")
                for _ in range(40):
                    outcome = run(*curl, "pop3://127.0.0.1:29110/1", accept=range(256))
                    if outcome.returncode == 0 or demo.poll() is not None:
                        break
                    time.sleep(0.25)
                if "Operation not permitted" in (demo.stderr.read() if demo.poll() is not None else ""):
                    skip("this machine permits no strace, so that system calls were not seen")
                self.assertIn("Subject: ", outcome.stdout)
                message = Path(folder) / "message"
                message.write_text("Subject: hello\r\n\r\nhello\r\n")
                run(*curl, "--mail-from", "me@example.org", "--mail-rcpt", "you@example.org",
                    "--upload-file", message, "smtp://127.0.0.1:29587/")
                run("curl", "--silent", "http://127.0.0.1:29180/metrics")
            finally:
                run("pkill", "--parent", demo.pid, "--signal", "TERM", accept=(0, 1))
                demo.wait(timeout=60)
                demo.stderr.close()
            seen = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
        self.assertGreater(len(seen), 20)
        self.assertEqual(seen - permitted, set())


class Sockets(unittest.TestCase):
    def test_each_has_its_port_and_its_name(self):
        for name, port in PORTS.items():
            text = (UNITS / f"popgate-{name}.socket").read_text()
            self.assertIn(f"\nListenStream={port}\n", text)
            self.assertIn(f"\nFileDescriptorName={name}\n", text)
            self.assertIn("\nService=popgate.service\n", text)

    def test_popgate_takes_them_by_these_names(self):
        names = {}
        for unit in sorted(UNITS.glob("*.socket")):
            names[re.search(r"^FileDescriptorName=(.*)$", unit.read_text(), re.MULTILINE)[1]] = 29000 + len(names)
        listen = [f"--listen=127.0.0.1:{port}" for port in names.values()]
        with tempfile.TemporaryDirectory() as folder:
            popgate = start(folder, "systemd-socket-activate", *listen, f"--fdname={':'.join(names)}")
            try:
                for _ in range(80):
                    outcome = run("curl", "--silent", "--max-time", "5", "--verbose", f"pop3://127.0.0.1:{names['pop3']}/", accept=range(256))
                    if "+OK popgate ready" in outcome.stderr:
                        break
                    time.sleep(0.25)
                self.assertIn("+OK popgate ready", outcome.stderr)
                outcome = run("curl", "--silent", "--max-time", "5", "--verbose", f"smtp://127.0.0.1:{names['submission']}/", accept=range(256))
                self.assertIn("< 220 ", outcome.stderr)
            finally:
                popgate.terminate()
                popgate.wait(timeout=60)


def start(folder, *before, **environment):
    """popgate with settings that need no network; behind the words of another command, if there are any."""
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=localhost", "-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt")
    settings = Path(folder) / "popgate.toml"
    settings.write_text(SETTINGS)
    return subprocess.Popen(
        [*before, str(POPGATE), "serve", "--config", str(settings)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )


SETTINGS = """\
[pop3]
listen = ["127.0.0.1:29110"]
listen_tls = ["127.0.0.1:29995"]

[smtp]
listen = ["127.0.0.1:29587"]
listen_tls = ["127.0.0.1:29465"]

[admin]
listen = "off"

[tls]
certificate = "tls.crt"
private_key = "tls.key"

[upstream.default]
imap = "imap://127.0.0.1:9"
smtp = "smtp://127.0.0.1:9"
"""


class Folders(unittest.TestCase):
    def test_user_and_folders_are_made(self):
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "etc").mkdir()
            run("systemd-sysusers", f"--root={root}", UNITS / "popgate.sysusers")
            (passwd,) = (line for line in (Path(root) / "etc/passwd").read_text().splitlines() if line.startswith("popgate:"))
            self.assertIn("/usr/sbin/nologin", passwd)
            run("systemd-tmpfiles", f"--root={root}", "--create", UNITS / "popgate.tmpfiles")
            user = int(passwd.split(":")[2])
            settings, state = (Path(root) / name for name in ("etc/popgate", "var/lib/popgate"))
            self.assertEqual((settings.stat().st_uid, settings.stat().st_gid), (0, user))
            self.assertEqual(settings.stat().st_mode & 0o777, 0o750)
            self.assertEqual((state.stat().st_uid, state.stat().st_mode & 0o777), (user, 0o700))


def syscalls(unit):
    """The names that SystemCallFilter= leaves."""
    permitted = set()
    for words in re.findall(r"^SystemCallFilter=(.*)$", unit, re.MULTILINE):
        named = set().union(*(group(word) for word in words.removeprefix("~").split()))
        permitted = permitted - named if words.startswith("~") else permitted | named
    return permitted


def group(name):
    if not name.startswith("@"):
        return {name}
    said = output("systemd-analyze", "syscall-filter", name)
    return set().union(*(group(line.strip()) for line in said.splitlines()[1:] if line.strip() and not line.strip().startswith("#")))
