"""Daemons that listen on loopback ports of ours and end when we do, however we end."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HOST = "127.0.0.1"
# Where cargo builds, and where `run` lets `install` put what Debian's package manager cannot hold.
TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../target")
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 10


def _make_folder():
    # Short, because a Unix socket's path ends at 107 octets; open to the servers' own users.
    folder = tempfile.mkdtemp(prefix="popgate-real-")
    os.chmod(folder, 0o755)
    if not os.environ.get("POPGATE_REAL_KEEP"):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# Everything that the run writes is below here. Functions registered with atexit run last one first, so the
# daemons, which register later, are gone before their folder.
FOLDER = _make_folder()

# A cancelled CI job is sent SIGTERM, which by itself would skip what atexit has to clean. As KeyboardInterrupt it is
# the one thing that unittest does not take for a failure of the test at hand.
signal.signal(signal.SIGTERM, signal.default_int_handler)


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_until(condition, what, seconds_max=START_SECONDS_MAX):
    """Returns the first true answer of `condition`, asked again and again."""
    deadline = time.monotonic() + seconds_max
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds_max} s in vain: {what}")
        time.sleep(0.02)


def greets(port, start):
    """Whether whoever listens on `port` greets in clear text with `start`."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection:
            return connection.recv(len(start)) == start
    except OSError:
        return False


def listens(port):
    """Whether anybody listens on `port`."""
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


class Daemon:
    """One process in the foreground, its output in a file."""

    def __init__(self, name, arguments, user=None, environment=None):
        self.name = name
        self.log_path = os.path.join(FOLDER, f"{name}.log")
        # The kernel ends the daemon when we are killed before we can end it.
        command = ["setpriv", "--pdeathsig", "TERM"]
        if user:
            command += ["--reuid", user, "--regid", "mail", "--clear-groups"]
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                command + arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                cwd=FOLDER,
                start_new_session=True,
            )
        # What it starts is in a session of its own with it.
        self.session = self._process.pid
        atexit.register(self.stop)

    def wait_until(self, ready, what):
        """Waits for the daemon to be ready, unless it ends first."""

        def ready_or_ended():
            return ready() or self._process.poll() is not None

        wait_until(ready_or_ended, f"{self.name}: {what}\n{self.log()}")
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self.log()}")

    def log(self, start=0):
        """What the daemon has written so far, from an octet of it on."""
        with open(self.log_path, "rb") as log:
            log.seek(start)
            return log.read().decode(errors="surrogateescape")

    def restart_memory_peak(self):
        """Forgets the peak so far; the resident memory now, in KiB."""
        with open(f"/proc/{self._process.pid}/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        return self.memory_peak()

    def memory_peak(self):
        """The most resident memory since the peak was forgotten, in KiB."""
        with open(f"/proc/{self._process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))

    def is_running(self):
        return self._process.poll() is None

    def last_words(self):
        """How the daemon ended and the end of its log."""
        return f"{self.name} ended with {self._process.poll()}; its log ends with:\n{self.log()[-3000:]}"

    def stop(self):
        """Asks the daemon to end and waits until it has."""
        if self.is_running():
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        # What it started is in its session and may have outlived it.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def kill(self):
        """Ends the daemon without a chance to tidy up."""
        self._process.kill()
        self._process.wait()
