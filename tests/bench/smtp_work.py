"""What clients do that send, with a proxy between them and a submission server at a distance."""

import smtplib

import contestants
import daemons
import processes
import servers
from contestants import RELAY, SMTP
from work import Line, Shape, Target, Work, send

_SMALL_OCTETS = 10 << 10


class _Sending(Work):
    """The first message of an outbox is not measured, and small."""

    outbox = None

    def at_distance(self, shape):
        """A client of the sink itself, and those between, each with a link and a sink of its own."""
        started = []
        for sender in (contestants.direct, self.bench.popgate_sending, contestants.submissiond):
            sink = contestants.Sink(self.outbox)
            started.append(sender(sink, contestants.Link(sink.port, shape)))
        return started

    def here(self):
        """The same without a link, and only those that cost something."""
        senders = (contestants.relay_sending, self.bench.popgate_sending, contestants.submissiond)
        return [sender(contestants.Sink(self.outbox)) for sender in senders]

    def large(self):
        return self.bench.outbox("large", _SMALL_OCTETS, self.scale.outbox_large_octets)


class SendOneByOne(_Sending):
    """What a client that pipelines the commands of a message gets of a link."""

    name = "send"

    def lines(self):
        title = f"send {self.scale.outbox:,} of 10 KiB one by one, {self.scale.round_trip_ms} ms, 100 Mbit/s"
        return [
            Line(title, "seconds", "s", Target(most_of_limit=1.05), SMTP),
            Line("– in round trips a message", "round_trips", "RTT", Target(most=2.1), SMTP),
        ]

    def contestants(self):
        self.outbox = self.bench.outbox("small", *[_SMALL_OCTETS] * (1 + self.scale.outbox))
        return self.at_distance(Shape(self.scale.round_trip_ms, 100))

    def measure(self, contestant, number):
        sent = send(contestant, self.outbox)
        each = sent["seconds"] / sent["messages"]
        return {"seconds": sent["seconds"], "round_trips": each * 1000 / self.scale.round_trip_ms}


class SendLarge(_Sending):
    """A message that no one should hold."""

    name = "send-large"

    def lines(self):
        title = f"send {self.scale.outbox_large_octets >> 20} MiB, {self.scale.round_trip_ms} ms, 1 Gbit/s"
        return [
            Line(title, "seconds", "s", Target(most_of_limit=1.05), SMTP),
            Line("– growth of memory", "memory", "MiB", Target(most=1 << 20), SMTP),
        ]

    def contestants(self):
        self.outbox = self.large()
        return self.at_distance(Shape(self.scale.round_trip_ms, 1000))

    def measure(self, contestant, number):
        if contestant.daemon is None:
            return send(contestant, self.outbox)
        # Whatever a process does for the first time only is not the message's.
        with smtplib.SMTP(daemons.HOST, contestant.port) as client:
            client.login("sender@example.org", servers.PASSWORD)
        growth = processes.MemoryGrowth(contestant.daemon.session)
        return {**send(contestant, self.outbox), "memory": growth.octets()}


class SendCopy(_Sending):
    """What passing a message on costs where nobody has to wait."""

    name = "send-copy"

    def lines(self):
        title = f"send {self.scale.outbox_large_octets >> 20} MiB, 0 ms, no TLS: CPU of the proxy"
        return [Line(title, "cpu_seconds", "s", None, RELAY)]

    def contestants(self):
        self.outbox = self.large()
        return self.here()

    def measure(self, contestant, number):
        before = processes.cpu_seconds(contestant.daemon.session)
        for _ in range(self.scale.copies):
            send(contestant, self.outbox)
        spent = processes.cpu_seconds(contestant.daemon.session) - before
        return {"cpu_seconds": spent / self.scale.copies}


# In the order of the table.
ALL = (SendOneByOne, SendLarge, SendCopy)
