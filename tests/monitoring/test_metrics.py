"""What /metrics says, read by those that know the formats best."""

import concurrent.futures
import subprocess
import unittest

from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as open_metrics_parser

import watched
import daemons
import pop3
import servers

OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
USERS = 1000


def samples(families):
    return {(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples}


def names(families):
    """As they are in INTERFACE.md, whatever the format makes of them."""
    return {sample[0] for sample in samples(families)}


def canonical(sample):
    """Bounds of buckets are written 1 in the one format and 1.0 in the other."""
    name, labels = sample
    return name, tuple((key, str(float(value)) if key == "le" else value) for key, value in labels)


class Formats(unittest.TestCase):
    def setUp(self):
        self.popgate = watched.world().popgates[0]

    def test_promtool_has_nothing_to_say(self):
        text, kind = self.popgate.metrics()
        self.assertTrue(kind.startswith("text/plain"), kind)
        check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        self.assertEqual((check.returncode, check.stdout, check.stderr), (0, "", ""))

    def test_open_metrics_says_the_same(self):
        text, kind = self.popgate.metrics(OPEN_METRICS)
        self.assertEqual(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.assertTrue(text.endswith("\n# EOF\n"))
        families = list(open_metrics_parser.text_string_to_metric_families(text))
        units = {family.name: family.unit for family in families if family.unit}
        self.assertEqual(units["popgate_session_duration_seconds"], "seconds")
        self.assertEqual(units["popgate_bytes"], "bytes")
        older = text_parser.text_string_to_metric_families(self.popgate.metrics()[0])
        self.assertEqual(set(map(canonical, samples(families))), set(map(canonical, samples(older))))

    def test_all_promised_families_are_there_from_the_start(self):
        text, _ = self.popgate.metrics(OPEN_METRICS)
        there = names(open_metrics_parser.text_string_to_metric_families(text))
        promised = """build_info ready connections_total connections_active connections_rejected_total sessions_total
            connections_limit session_duration_seconds_bucket auth_attempts_total pop3_command_duration_seconds_bucket
            smtp_command_duration_seconds_bucket imap_command_duration_seconds_bucket upstream_connections upstream_up
            upstream_errors_total messages_retrieved_total messages_deleted_total bytes_total listing_cache_total
            read_ahead_total submissions_total sent_copies_total oauth_refresh_total accounts"""
        missing = {f"popgate_{name}" for name in promised.split()} - there
        self.assertEqual(missing, set())
        self.assertIn("process_resident_memory_bytes", there)

    def test_liveness_and_readiness(self):
        self.assertEqual(watched.http(self.popgate.url("/livez"))[0], "ok\n")
        # One of its upstreams is down all the time.
        self.assertEqual(watched.http(self.popgate.url("/readyz"))[0], "ready\n")


class Series(unittest.TestCase):
    def test_a_thousand_users_have_as_many_as_one(self):
        world = watched.world()
        # Without TLS to the upstream, which would be most of the time.
        imap = f"imap://{daemons.HOST}:{world.dovecot.imap_port}"
        popgate = watched.Popgate("series", world.sink, imap, imap, imap)

        def log_in(number):
            # Each from another address, so that none is held back for guessing.
            with pop3.Client(popgate.pop3, source=f"127.2.{number // 250}.{number % 250 + 1}") as client:
                # Every tenth exists only as a guess.
                password = "a guess" if number % 10 == 9 else servers.PASSWORD
                try:
                    client.login(f"crowd{number}@office.example", password)
                    client.quit()
                except pop3.Refused:
                    pass

        def series():
            text, _ = popgate.metrics()
            return sorted(samples(text_parser.text_string_to_metric_families(text)))

        log_in(0)
        before = series()
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            list(clients.map(log_in, range(1, USERS)))
        self.assertEqual(series(), before)
        text, _ = popgate.metrics()
        self.assertNotIn("crowd", text)
        popgate.daemon.stop()
