"""What POP3 clients do, at distances at which a proxy between them and an IMAP server is felt."""

import time

import certificates
import pop3
import processes
import servers
from contestants import IMAPC, LIMIT, NGINX, POP3, RELAY
from work import Line, Shape, Target, Work, run

# Until what follows a session has happened.
_SETTLE_SECONDS = 1
# A mailbox of which nothing is wanted but that it is there.
_FEW = 10
_FEW_OCTETS = 2000


class RetrieveOneByOne(Work):
    """What a client that knows no PIPELINING gets of a link."""

    name = "retr"
    slow = (IMAPC, POP3)

    def lines(self):
        title = f"RETR one by one, {self.scale.some:,} of 7 kB, {self.scale.round_trip_ms} ms, 100 Mbit/s"
        return [Line(title, "seconds", "s", Target(most_of_limit=1.15))]

    def contestants(self):
        self._mailbox = self.bench.mailbox("some", self.scale.some, 7000)
        self.teach_imapc(self._mailbox, "reader")
        return self.at_distance(Shape(self.scale.round_trip_ms, 100))

    def measure(self, contestant, number):
        return run("retrieve", contestant, self._mailbox, "reader")


class FirstLogin(Work):
    """A login of somebody whose mailbox nobody has seen; others have been at this upstream."""

    name = "first-login"
    slow = (IMAPC,)

    def lines(self):
        title = f"first login, {self.scale.some:,} messages, {self.scale.round_trip_ms} ms"
        return [Line(title, "seconds", "s", Target(most_of_limit=1.05))]

    def contestants(self):
        self._mailbox = self.bench.mailbox("some", self.scale.some, 7000)
        self._other_mailbox = self.bench.mailbox("few", _FEW, _FEW_OCTETS)
        return self.at_distance(Shape(self.scale.round_trip_ms))

    def measure(self, contestant, number):
        run("list", contestant, self._other_mailbox, "somebody-else")
        time.sleep(_SETTLE_SECONDS)
        return run("list", contestant, self._mailbox, f"first{number}")


class FirstLoginLarge(Work):
    """The same where only the work counts, not the distance."""

    name = "first-login-large"
    slow = (IMAPC,)

    def lines(self):
        title = f"first login, {self.scale.very_many:,} messages, 0 ms"
        return [Line(title, "seconds", "s", Target(most_of_limit=1.3))]

    def contestants(self):
        self._mailbox = self.bench.mailbox("very-many", self.scale.very_many, 500, distinct=500)
        return self.here()

    def measure(self, contestant, number):
        return run("list", contestant, self._mailbox, f"first{number}")


class LaterLogin(Work):
    """What most logins are: nothing is new since the last one."""

    name = "later-login"

    def lines(self):
        title = f"later login, {self.scale.many:,} messages, nothing new, {self.scale.round_trip_ms} ms"
        return [
            Line(title, "seconds", "s", Target(most=0.06)),
            Line("– in round trips", "round_trips", "RTT"),
            Line("– to and from the upstream", "octets", "kB", Target(most=1000)),
        ]

    def contestants(self):
        self._mailbox = self.bench.mailbox("many", self.scale.many, 500, distinct=500)
        self.teach_imapc(self._mailbox, "regular")
        known_to = self.at_distance(Shape(self.scale.round_trip_ms))
        for contestant in known_to:
            run("list", contestant, self._mailbox, "regular")
        return known_to

    def measure(self, contestant, number):
        # What the session before has left behind is not this one's, what this one leaves is.
        time.sleep(_SETTLE_SECONDS)
        before = contestant.link.octets()
        measured = run("list-again", contestant, self._mailbox, "regular")
        time.sleep(_SETTLE_SECONDS)
        return {
            "seconds": measured["seconds"],
            "round_trips": measured["seconds"] * 1000 / self.scale.round_trip_ms,
            "octets": contestant.link.octets() - before,
        }


class Large(Work):
    """A message that no one should hold."""

    name = "large"

    def lines(self):
        title = f"{self.scale.large_octets >> 20} MiB, {self.scale.round_trip_ms} ms, 1 Gbit/s: first octet"
        return [
            Line(title, "first_octet_seconds", "s", Target(most_of_limit=1.05)),
            Line("– last octet", "seconds", "s", Target(most_of_limit=1.03)),
            Line("– growth of memory", "memory", "MiB", Target(most=1 << 20)),
        ]

    def contestants(self):
        self._mailbox = self.bench.mailbox("large", 1, self.scale.large_octets)
        return self.at_distance(Shape(self.scale.round_trip_ms, 1000))

    def measure(self, contestant, number):
        if contestant.daemon is None:
            return run("retrieve", contestant, self._mailbox, "reader")
        # Whatever a process does for the first time only is not the message's.
        look(contestant, self._mailbox, 1, 1)
        growth = processes.MemoryGrowth(contestant.daemon.session)
        measured = run("retrieve", contestant, self._mailbox, "reader")
        return {**measured, "memory": growth.octets()}


class Copy(Work):
    """What passing a message on costs where nobody has to wait."""

    name = "copy"

    def lines(self):
        title = f"{self.scale.large_octets >> 20} MiB, 0 ms, no TLS: CPU of the proxy"
        return [Line(title, "cpu_seconds", "s", Target(most_of_limit=1), RELAY)]

    def contestants(self):
        self._mailbox = self.bench.mailbox("large", 1, self.scale.large_octets)
        return [self.bench.relay(), self.bench.popgate(), self.bench.imapc()]

    def measure(self, contestant, number):
        before = processes.cpu_seconds(contestant.daemon.session)
        run("retrieve", contestant, self._mailbox, "reader", f"--times={self.scale.copies}")
        spent = processes.cpu_seconds(contestant.daemon.session) - before
        return {"cpu_seconds": spent / self.scale.copies}


class _Idle(Work):
    """Sessions that have logged in and say nothing, as those of clients which wait for their user."""

    # What sessions of the round before have given back would be taken again, and not be seen to grow.
    afresh = True

    def lines(self):
        return [Line(self.title, "octets", "KiB", self.target, limit=NGINX)]

    def measure(self, contestant, number):
        sessions = []
        try:
            # Some are there beforehand, so that what is needed once is not counted.
            self._log_in(contestant, sessions, self.scale.idle_sessions // 4)
            before = processes.pss_octets(contestant.daemon.session)
            self._log_in(contestant, sessions, self.scale.idle_sessions)
            grown = processes.pss_octets(contestant.daemon.session) - before
        finally:
            for session in sessions:
                session.drop()
        return {"octets": grown / self.scale.idle_sessions}

    def _log_in(self, contestant, sessions, count):
        for _ in range(count):
            session = pop3.Client(contestant.port, self.tls, certificates.own().client_context())
            sessions.append(session)
            session.login(self._mailbox.login(f"idle{len(sessions)}"), servers.PASSWORD)
        time.sleep(_SETTLE_SECONDS)


class Idle(_Idle):
    name = "idle"
    title = f"idle session, {_FEW} messages, clear: PSS of the proxy"
    target = Target(most=5 << 10)
    tls = None
    slow = (IMAPC,)

    def contestants(self):
        self._mailbox = self.bench.mailbox("few", _FEW, _FEW_OCTETS)
        return [self.bench.nginx(), self.bench.popgate(), self.bench.imapc()]


class IdleWithTls(_Idle):
    name = "idle-tls"
    title = "– with TLS on both sides"
    target = Target(most=25 << 10)
    tls = "implicit"

    def contestants(self):
        self._mailbox = self.bench.mailbox("few", _FEW, _FEW_OCTETS)
        return [self.bench.popgate_with_tls()]


class LoginCost(Work):
    """Most of what a proxy of clients that only look does."""

    name = "login-cpu"

    def lines(self):
        return [Line("login, STAT, QUIT, no TLS: CPU of the proxy", "cpu_seconds", "s", Target(most_of_limit=1), NGINX)]

    def contestants(self):
        self._mailbox = self.bench.mailbox("few", _FEW, _FEW_OCTETS)
        return [self.bench.nginx(), self.bench.popgate(), self.bench.imapc()]

    def measure(self, contestant, number):
        before = processes.cpu_seconds(contestant.daemon.session)
        looked = look(contestant, self._mailbox, 1, self.scale.sessions)
        # An ended process counts when it was waited for.
        time.sleep(_SETTLE_SECONDS)
        spent = processes.cpu_seconds(contestant.daemon.session) - before
        return {"cpu_seconds": spent / looked["sessions"]}


class Workers(Work):
    """The same by many at once."""

    name = "workers"

    def lines(self):
        title = f"{self.scale.workers} workers doing that, 0 ms"
        return [
            Line(title, "sessions_per_second", "/s", Target(least=1500), POP3),
            # What the upstream has to do for each session of popgate is IMAP.
            Line("– beside the upstream's own IMAP", "sessions_per_second", "/s", None, LIMIT),
        ]

    def contestants(self):
        self._mailbox = self.bench.mailbox("few", _FEW, _FEW_OCTETS)
        return [self.bench.limit(), self.bench.own_pop3(), self.bench.popgate(), self.bench.imapc()]

    def measure(self, contestant, number):
        workers = self.scale.workers
        looked = look(contestant, self._mailbox, workers, self.scale.sessions // workers)
        return {"sessions_per_second": looked["sessions"] / looked["seconds"]}


def look(contestant, mailbox, workers, sessions_of_each):
    """Has workers, each as somebody else, log in for a STAT again and again."""
    options = (f"--workers={workers}", f"--sessions-of-each={sessions_of_each}")
    return run("look", contestant, mailbox, "worker{}", *options)


# In the order of the table.
ALL = (
    RetrieveOneByOne,
    FirstLogin,
    FirstLoginLarge,
    LaterLogin,
    Large,
    Copy,
    Idle,
    IdleWithTls,
    LoginCost,
    Workers,
)
