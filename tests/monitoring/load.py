"""What clients do: most of them poll, and some do all that can go wrong."""

import contextlib
import itertools
import random
import smtplib
import socket
import threading
import time

import watched  # finds the modules below
import certificates
import daemons
import pop3
import servers

MESSAGE = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: %d\r\n\r\n" + b"Hello, hello, hello.\r\n" * 200
USERS = [f"user{number}@{domain}" for number in range(4) for domain in ("office.example", "shop.example")]
MESSAGES_OF_USER = 40


class Load:
    """Clients at all popgates of a world until `stop`."""

    def __init__(self, world):
        self._world = world
        self._stopped = threading.Event()
        self._random = random.Random(7)
        # A mailbox is polled by one client at a time.
        self._polled = {user: threading.Lock() for user in USERS}
        self._failures = []
        for user in USERS:
            self.deliver(user, MESSAGES_OF_USER)
        jobs = [self._poll] * 4 + [self._send, self._mistake]
        self._threads = [threading.Thread(target=self._repeat, args=(job,), daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def deliver(self, user, count):
        number = itertools.count()
        account = servers.User(self._world.server_of(user), user, servers.PASSWORD)
        account.put(*(MESSAGE % next(number) for _ in range(count)))

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
        if self._failures:
            raise self._failures[0]

    def _repeat(self, job):
        while not self._stopped.wait(self._random.uniform(0.02, 0.2)):
            popgate = self._random.choice(self._world.popgates)
            # Trouble is what much of this is for; what must not happen is told by the tests.
            with contextlib.suppress(pop3.Refused, OSError, EOFError, smtplib.SMTPException):
                try:
                    job(popgate)
                except AssertionError as failure:
                    self._failures.append(failure)

    def _poll(self, popgate):
        user = self._random.choice(USERS)
        tls = self._random.random() < 0.5
        with self._polled[user], self._connected(popgate, tls) as client:
            client.login(user, servers.PASSWORD)
            client.sizes()
            client.unique_ids()
            count, _ = client.stat()
            for number in range(1, min(count, 12) + 1):
                client.retr(number)
                if number <= 2:
                    client.dele(number)
            client.quit()
        self.deliver(user, 2)

    def _connected(self, popgate, tls=False):
        if tls:
            return pop3.Client(popgate.pop3s, "implicit", certificates.own().client_context())
        return pop3.Client(popgate.pop3)

    def _send(self, popgate):
        to = self._random.choices(["b", "refused", "lost", "aborted"], [12, 2, 1, 1])[0] + "@example.org"
        with smtplib.SMTP(daemons.HOST, popgate.smtp, timeout=30) as client:
            client.login(USERS[0], servers.PASSWORD)
            if to.startswith("aborted"):
                client.ehlo_or_helo_if_needed()
                client.mail("a@example.org")
                client.rcpt("b@example.org")
                client.putcmd("data")
                client.getreply()
                client.sock.sendall(b"Subject: this is not all\r\n")
                client.close()
                return
            client.sendmail("a@example.org", [to], MESSAGE % 0)

    def _mistake(self, popgate):
        mistake = self._random.choice([self._password, self._password, self._leaver, self._browser, self._handshake,
                                       self._legacy, self._top])  # fmt: skip
        mistake(popgate)

    def _password(self, popgate):
        # Each from another address, so that none is held back for guessing.
        source = f"127.1.{self._random.randrange(256)}.{self._random.randrange(1, 255)}"
        with pop3.Client(popgate.pop3, source=source) as client:
            client.login(self._random.choice(USERS), "not the password")

    def _leaver(self, popgate):
        with self._connected(popgate) as client:
            client.login(USERS[1], servers.PASSWORD)

    def _browser(self, popgate):
        with socket.create_connection((daemons.HOST, popgate.pop3), timeout=30) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while client.recv(1000):
                pass

    def _handshake(self, popgate):
        with socket.create_connection((daemons.HOST, popgate.pop3s), timeout=30) as client:
            client.sendall(b"this is no TLS\r\n")
            while client.recv(1000):
                pass

    def _legacy(self, popgate):
        with self._connected(popgate) as client:
            client.login("old@legacy.example", servers.PASSWORD)

    def _top(self, popgate):
        with self._connected(popgate) as client:
            client.login(USERS[2], servers.PASSWORD)
            for number in (1, 3, 2):
                client.top(number, 3)
            client.quit()


def crowd(popgate, connections, seconds):
    """So many clients at once who say nothing; those beyond the limit are turned away."""
    sockets = [socket.create_connection((daemons.HOST, popgate.pop3), timeout=30) for _ in range(connections)]
    time.sleep(seconds)
    for each in sockets:
        each.close()
