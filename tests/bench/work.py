"""What a work of the benchmark is: contestants that do the same in turns, and lines of the table."""

import dataclasses
import json
import subprocess

import contestants
import mailboxes
import servers

# Nothing here takes longer; without an end there would be no result either.
_SECONDS_MAX = 600


@dataclasses.dataclass(frozen=True)
class Shape:
    """How long and how wide a link is."""

    round_trip_ms: float
    mbit_per_second: float | None = None

    def arguments(self):
        limited = [f"--mbit-per-second={self.mbit_per_second}"] if self.mbit_per_second else []
        return [f"--round-trip-ms={self.round_trip_ms}", *limited]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much there is to do."""

    rounds: int
    round_trip_ms: float
    # Messages of the mailboxes.
    some: int
    many: int
    very_many: int
    large_octets: int
    copies: int
    sessions: int
    idle_sessions: int
    workers: int
    # Of what is sent.
    outbox: int
    outbox_large_octets: int


FULL = Scale(
    rounds=5,
    round_trip_ms=50,
    some=1000,
    many=10_000,
    very_many=100_000,
    large_octets=200 << 20,
    copies=5,
    sessions=2000,
    idle_sessions=400,
    workers=16,
    outbox=100,
    outbox_large_octets=50 << 20,
)
# For whether it works; its figures mean nothing.
SMALL = Scale(
    rounds=1,
    round_trip_ms=2,
    some=20,
    many=50,
    very_many=200,
    large_octets=1 << 20,
    copies=1,
    sessions=32,
    idle_sessions=10,
    workers=4,
    outbox=5,
    outbox_large_octets=1 << 20,
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: a figure of each contestant, and what popgate's should be."""

    title: str
    # The figure's key in what Work.measure gives out.
    figure: str
    unit: str
    target: "Target | None" = None
    # Whose figure is the limit.
    limit: str = contestants.LIMIT


@dataclasses.dataclass(frozen=True)
class Target:
    """What popgate's figure should be; one of these."""

    most: float | None = None
    least: float | None = None
    most_of_limit: float | None = None


class Bench:
    """What the works share: one upstream with its mailboxes, each made when first used."""

    def __init__(self, scale, popgate):
        self.scale, self._popgate = scale, popgate
        self.upstream = contestants.Upstream()
        self._mailboxes, self._outboxes = {}, {}

    def mailbox(self, name, count, octets, distinct=None):
        """A mailbox with so many messages of about so many octets, of which so many are different."""
        if name not in self._mailboxes:
            made = mailboxes.messages(min(count, distinct or count), octets, seed=name)
            mailbox = mailboxes.Mailbox(self.upstream, name, made, count)
            # The upstream's own indexes are none of anybody's work.
            for contestant in (self.limit(), self.own_pop3()):
                run("list", contestant, mailbox, "before")
            self._mailboxes[name] = mailbox
        return self._mailboxes[name]

    def outbox(self, name, *octets):
        """Messages of about so many octets, one of each."""
        if name not in self._outboxes:
            made = [mailboxes.messages(1, each, seed=f"{name}-{number}")[0] for number, each in enumerate(octets)]
            self._outboxes[name] = mailboxes.Outbox(name, made)
        return self._outboxes[name]

    def limit(self, link=None):
        """An IMAP client that knows beforehand what it wants."""
        return contestants.Contestant(contestants.LIMIT, "imap", self._imap_port(link), link=link)

    def own_pop3(self, link=None):
        """The upstream's own POP3 server; the link has to be one to that."""
        port = link.port if link else self.upstream.pop3_port
        return contestants.Contestant(contestants.POP3, "pop3", port, link=link)

    def popgate(self, link=None):
        return contestants.popgate(self._popgate, self._imap_port(link), link)

    def popgate_with_tls(self):
        """With TLS on both sides."""
        return contestants.popgate_with_tls(self._popgate, self.upstream.imaps_port)

    def imapc(self, link=None):
        return contestants.imapc(self._imap_port(link), link)

    def nginx(self):
        return contestants.nginx(self.upstream.pop3_port)

    def relay(self):
        return contestants.relay(self.upstream.pop3_port)

    def popgate_sending(self, sink, link=None):
        return contestants.popgate_sending(self._popgate, self.upstream.imap_port, sink, link)

    def _imap_port(self, link):
        return link.port if link else self.upstream.imap_port


class Work:
    """Something that contestants do in turns."""

    name = ""
    # Those who take so long that one round has to do.
    slow = ()
    # Whether each round starts all contestants again.
    afresh = False

    def __init__(self, bench):
        self.bench, self.scale = bench, bench.scale

    def lines(self):
        raise NotImplementedError

    def contestants(self):
        """Starts whoever takes part, and prepares what they work on."""
        raise NotImplementedError

    def measure(self, contestant, number):
        """Figures of a contestant in the round of this number, by name."""
        raise NotImplementedError

    def at_distance(self, shape):
        """Those who can do whatever a POP3 client wants, each with a link of its own."""
        bench, upstream = self.bench, self.bench.upstream
        return [
            bench.limit(contestants.Link(upstream.imap_port, shape)),
            bench.popgate(contestants.Link(upstream.imap_port, shape)),
            bench.imapc(contestants.Link(upstream.imap_port, shape)),
            bench.own_pop3(contestants.Link(upstream.pop3_port, shape)),
        ]

    def teach_imapc(self, mailbox, who):
        """Has imapc see a mailbox before, which at a distance costs it a round trip a message."""
        imapc = self.bench.imapc()
        run("list", imapc, mailbox, who)
        imapc.stop()

    def here(self):
        """The same without a link."""
        return [self.bench.limit(), self.bench.popgate(), self.bench.imapc(), self.bench.own_pop3()]


def run(kind, contestant, mailbox, who, *options):
    """Has the tool's client do something, which checks all that it receives; what it measured."""
    session = [contestant.protocol, str(contestant.port), mailbox.login(who), servers.PASSWORD, mailbox.manifest_path]
    return _tool(f"{contestant.name}, {kind} at {mailbox.name}", kind, *options, *session)


def send(contestant, outbox):
    """Has the tool's client send an outbox, all of which must come to the sink; what it measured."""
    before = contestant.sink.taken()
    session = [str(contestant.port), "sender@example.org", servers.PASSWORD, outbox.folder]
    sent = _tool(f"{contestant.name}, send", "send", *session)
    if contestant.sink.taken() != before + 1:
        raise RuntimeError(f"{contestant.name} says that it sent what did not come")
    return sent


def _tool(what, *arguments):
    command = [contestants.TOOL, *arguments]
    done = subprocess.run(command, capture_output=True, timeout=_SECONDS_MAX, check=False, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{what}: {done.stderr.strip()}")
    return json.loads(done.stdout)
