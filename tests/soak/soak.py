"""Idle sessions and a stream of work for as long as wanted: errors, memory and descriptors of popgate."""

import argparse
import collections
import os
import resource
import smtplib
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../real"))

import certificates
import daemons
import messages
import pop3
import popgate as popgate_daemon
import submission_servers

# Of a mailbox; a poll deletes what is beyond.
MESSAGES_KEPT = 20
# Sessions that are idle say NOOP so often; popgate's limit is ten minutes.
NOOP_SECONDS = 240
# Growth, between a quarter of the time and its end, that is taken for none.
MEMORY_GROWTH_MAX = 0.10
DESCRIPTORS_GROWTH_MAX = 10


class Mailboxes(submission_servers.Mailboxes):
    """Many sessions a process, since a process for each of thousands would be most of the machine."""

    def _config(self, capability, special_use):
        return f"""{super()._config(capability, special_use)}
            default_client_limit = 20000
            default_vsz_limit = 4G
            service imap {{
              # Otherwise a process ends behind its first session, and has no second one beside it.
              service_count = 0
              client_limit = 50
              process_limit = 400
            }}
            service imap-login {{
              client_limit = 20000
            }}
            """


class Soak:
    def __init__(self, arguments):
        self.arguments = arguments
        self.mailboxes = Mailboxes("soak")
        self.postfix = submission_servers.Postfix(self.mailboxes, "soak-postfix")
        self.smtp_port = daemons.free_port()
        self.tally, self.errors = collections.Counter(), []
        self.ends = threading.Event()
        # The config of the run of real servers, with a way to send.
        self.popgate = popgate_daemon.Popgate(
            [self.mailboxes],
            "soak-popgate",
            f"""
[smtp]
listen = ["{daemons.HOST}:{self.smtp_port}"]
sent_copy = "never"

[upstream.soak]
imap = "imaps://localhost:{self.mailboxes.imaps_port}"
smtp = "smtp+starttls://localhost:{self.postfix.port}"
ca_file = "{certificates.upstream().ca_path}"

[upstream.soak.maildrop]
on_delete = "expunge"

[[route]]
login = "*"
upstream = "soak"
""",
        )
        self.idle = []

    def fill_with_idle(self):
        """Logged-in sessions, ten of each user."""
        user = None
        for number in range(self.arguments.idle):
            if number % 10 == 0:
                user = self.mailboxes.user("idle").put(*messages.small(3))
            self.idle.append(self.popgate.session(user))

    def keep_idle(self):
        """NOOP, now and then, to each of them."""
        while not self.ends.wait(NOOP_SECONDS):
            for session in self.idle:
                self.attempt("NOOP of an idle session", lambda session=session: session.ask(b"NOOP"))

    def attempt(self, what, action):
        try:
            result = action()
            self.tally[what] += 1
            return result
        except Exception as error:  # Whatever it is, it is what this run is about.
            self.errors.append(f"{what}: {error!r}")
            return None

    def work(self, user):
        while not self.ends.is_set():
            self.attempt("submission", lambda: self.submit(user))
            self.attempt("poll", lambda: self.poll(user))
            self.attempt("download", lambda: self.download(user))

    def submit(self, user):
        with smtplib.SMTP(daemons.HOST, self.smtp_port, timeout=60) as client:
            client.ehlo("soak.example")
            client.login(user.login, user.password)
            client.sendmail(user.login, [user.login], b"Subject: soak\r\n\r\n" + b"a line of text\r\n" * 500)

    def poll(self, user):
        with self.popgate.session(user) as session:
            session.stat()
            session.unique_ids()
            session.quit()

    def download(self, user):
        with self.popgate.session(user) as session:
            sizes = session.sizes()
            for number in sizes:
                octets = session.retr(number)
                assert b"\r\n\r\n" in octets and len(octets) == sizes[number], (number, len(octets), sizes[number])
            session.dele(*list(sizes)[:-MESSAGES_KEPT])
            session.quit()

    def sample(self):
        """Resident KiB and open descriptors."""
        pid = self.popgate.daemon.session
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            memory = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
        return memory, len(os.listdir(f"/proc/{pid}/fd"))

    def run(self):
        self.fill_with_idle()
        idle_memory, idle_descriptors = self.sample()
        print(f"{len(self.idle)} sessions are idle: {idle_memory} KiB, {idle_descriptors} descriptors", flush=True)
        threads = [threading.Thread(target=self.keep_idle)]
        for number in range(self.arguments.workers):
            user = self.mailboxes.user("worker").put(*messages.small(5))
            threads.append(threading.Thread(target=self.work, args=(user,)))
        for thread in threads:
            thread.start()
        began, samples = time.monotonic(), []
        while (elapsed := time.monotonic() - began) < self.arguments.seconds:
            time.sleep(min(5, self.arguments.seconds / 20))
            memory, descriptors = self.sample()
            samples.append((elapsed, memory, descriptors))
            if len(samples) % 12 == 0:
                print(f"{elapsed:6.0f} s {memory} KiB {descriptors} descriptors {len(self.errors)} errors", flush=True)
        self.ends.set()
        for thread in threads:
            thread.join()
        # Each idle session is still there.
        for session in self.idle:
            self.attempt("NOOP of an idle session", lambda session=session: session.ask(b"NOOP"))
        return self.judge(samples)

    def judge(self, samples):
        warm = [sample for sample in samples if sample[0] >= self.arguments.seconds / 4]
        half = len(warm) // 2
        memory = [max(kib for _, kib, _ in part) for part in (warm[:half], warm[half:])]
        descriptors = [max(count for _, _, count in part) for part in (warm[:half], warm[half:])]
        for what, count in sorted(self.tally.items()):
            print(f"{count:8} {what}")
        for error in self.errors[:20]:
            print(error)
        complaints = self.popgate.complaints()
        print(*complaints[:20], sep="\n", end="\n" if complaints else "")
        print(f"errors {len(self.errors)}")
        print(f"memory {memory[0]} KiB, later {memory[1]} KiB")
        print(f"descriptors {descriptors[0]}, later {descriptors[1]}")
        is_flat = memory[1] <= memory[0] * (1 + MEMORY_GROWTH_MAX)
        is_flat &= descriptors[1] <= descriptors[0] + DESCRIPTORS_GROWTH_MAX
        return 0 if is_flat and not self.errors and not complaints and self.tally else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=120)
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # As many connections of popgate as sessions; all come from one address.
    os.environ["POPGATE__LIMITS__CONNECTIONS_PER_ADDRESS"] = str(arguments.idle + 100)
    os.environ["POPGATE_LOG"] = "info"
    return Soak(arguments).run()


if __name__ == "__main__":
    sys.exit(main())
