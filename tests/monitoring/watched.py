"""Two popgates with work to do between a real IMAP server and clients, and a Prometheus that watches them."""

import functools
import json
import os
import pathlib
import sys
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The servers and clients of the tests with real ones.
sys.path.append(str(HERE.parent / "real"))

import certificates  # noqa: E402
import daemons  # noqa: E402
import servers  # noqa: E402
import sink  # noqa: E402

BINARY = os.path.abspath(os.environ.get("POPGATE_BIN") or ROOT / "target/debug/popgate")
RULES = ROOT / "deploy/prometheus/rules.yaml"
DASHBOARDS = sorted((ROOT / "grafana").glob("*.json"))
RUNBOOK = ROOT / "deploy/prometheus/RUNBOOK.md"

# What a data source of Grafana has for $__rate_interval with a scrape each second.
RATE_INTERVAL = "5s"


def http(url, accept=None):
    """The answer to a GET: its text and its content type."""
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


class Popgate:
    """One instance, with the upstreams office, shop and legacy, whose IMAP services are at these addresses."""

    def __init__(self, name, submission, office, shop, legacy, flags=(), environment=None):
        self.name = name
        self.pop3, self.pop3s, self.smtp, self.admin = (daemons.free_port() for _ in range(4))
        own, ca = certificates.own(), certificates.upstream().ca_path
        path = os.path.join(daemons.FOLDER, f"{name}.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"""
[pop3]
listen = ["{daemons.HOST}:{self.pop3}"]
listen_tls = ["{daemons.HOST}:{self.pop3s}"]
[smtp]
listen = ["{daemons.HOST}:{self.smtp}"]
listen_tls = []
[admin]
listen = "{daemons.HOST}:{self.admin}"
[tls]
certificate = "{own.certificate_path}"
private_key = "{own.key_path}"
[limits]
connections = 60
connections_per_address = 50
[upstream.office]
imap = "{office}"
smtp = "smtp://{daemons.HOST}:{submission.port}"
ca_file = "{ca}"
[upstream.shop]
imap = "{shop}"
ca_file = "{ca}"
maildrop = {{ on_delete = "expunge" }}
[upstream.legacy]
imap = "{legacy}"
ca_file = "{ca}"
[[route]]
login = "*@shop.example"
upstream = "shop"
[[route]]
login = "*@legacy.example"
upstream = "legacy"
[[route]]
login = "*"
upstream = "office"
""")
        environment = {"NO_COLOR": "1", **(environment or {})}
        self.daemon = daemons.Daemon(name, [BINARY, *flags, "serve", "--config", path], environment=environment)
        self.daemon.wait_until(self._is_ready, "/readyz does not say ready")

    def _is_ready(self):
        try:
            return bool(http(self.url("/readyz")))
        except OSError:
            return False

    def url(self, path):
        return f"http://{daemons.HOST}:{self.admin}{path}"

    def metrics(self, accept=None):
        return http(self.url("/metrics"), accept)


class Prometheus:
    """Debian's, with our rules, reading each second."""

    def __init__(self, popgates):
        self.port = daemons.free_port()
        folder = os.path.join(daemons.FOLDER, "prometheus")
        os.mkdir(folder)
        # Debian's has no JSON for its settings, but YAML is a superset.
        targets = [
            {"targets": [f"{daemons.HOST}:{popgate.admin}"], "labels": {"instance": popgate.name}}
            for popgate in popgates
        ]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            # Itself, too, as a Prometheus watches more than popgate.
            "scrape_configs": [
                {"job_name": "popgate", "static_configs": targets},
                {"job_name": "prometheus", "static_configs": [{"targets": [f"{daemons.HOST}:{self.port}"]}]},
            ],
        }
        path = os.path.join(folder, "prometheus.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(settings, file)
        arguments = [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={daemons.HOST}:{self.port}",
        ]
        self.daemon = daemons.Daemon("prometheus", arguments)
        self.daemon.wait_until(self._sees_all, "not all targets are up")

    def _sees_all(self):
        try:
            return self.instant("min(up)") and not self.instant("up == 0") and self.instant("count(up) > 2")
        except OSError:
            return False

    @property
    def base(self):
        return f"http://{daemons.HOST}:{self.port}"

    def instant(self, expression):
        return self._ask("query", query=expression)

    def ranged(self, expression, start, end, step):
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def label_values(self, selector, label):
        return self._data(f"label/{label}/values", **{"match[]": selector})

    def _ask(self, kind, **parameters):
        return self._data(kind, **parameters)["result"]

    def _data(self, kind, **parameters):
        text, _ = http(f"{self.base}/api/v1/{kind}?{urllib.parse.urlencode(parameters)}")
        return json.loads(text)["data"]


class World:
    """A server for office and another for shop; for legacy there is none, unless it `is_whole`."""

    def __init__(self, is_whole=False):
        self.dovecot, self.other_dovecot = servers.Dovecot("office"), servers.Dovecot("shop")
        self.sink = sink.Sink()
        office, shop = (f"imaps://localhost:{server.imaps_port}" for server in (self.dovecot, self.other_dovecot))
        legacy = shop if is_whole else f"imaps://localhost:{daemons.free_port()}"
        self.popgates = [Popgate(f"popgate-{number}", self.sink, office, shop, legacy) for number in range(2)]
        self.prometheus = Prometheus(self.popgates)

    def server_of(self, user):
        return self.dovecot if user.endswith("@office.example") else self.other_dovecot


@functools.cache
def world():
    return World()
