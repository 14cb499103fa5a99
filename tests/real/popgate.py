"""popgate itself, started with a config that routes many kinds of login to the real servers."""

import base64
import os
import re
import urllib.request

import certificates
import daemons
import pop3
import servers

# The first word of a login chooses a maildrop section, so that one popgate serves the tests of all policies.
MAILDROPS = {
    "plain": "",
    "expunge": 'on_delete = "expunge"',
    "trash": 'on_delete = "trash"',
    "archive": 'on_delete = "archive"',
    "flag": 'on_delete = "flag"',
    "keep": 'on_delete = "keep"',
    "move": 'on_delete = "move:Elsewhere"',
    # In IMAP's modified UTF-7 this is &ANw-brige Post.
    "utf7": 'on_delete = "move:Übrige Post"',
    "missing": 'on_delete = "move:Not There"',
    "seen": 'on_delete = "expunge"\nmark_seen = "retrieved"',
    "exclusive": 'on_delete = "expunge"\nsessions = "exclusive"',
    "newest": 'on_delete = "expunge"\nnewest_messages = 3',
    "folder": 'folder = "Elsewhere"\non_delete = "expunge"',
    "uid": 'unique_id = "uid"',
    "cyrus": 'unique_id = "cyrus"',
    "courier": 'unique_id = "courier"',
    "uw": 'unique_id = "uw"',
    "emailid": 'unique_id = "emailid"',
}


def _imap_urls(server):
    # Both ways to TLS and both kinds of name in a certificate; a maildrop more or less at random gets one of them.
    return (f"imaps://localhost:{server.imaps_port}", f"imap+starttls://127.0.0.1:{server.imap_port}")


def _upstream(name, url, login, maildrop, ca_path=None):
    return f"""
[upstream.{name}]
imap = "{url}"
ca_file = "{ca_path or certificates.upstream().ca_path}"

[upstream.{name}.maildrop]
{maildrop}

[[route]]
login = "{login}"
upstream = "{name}"
"""


def config(upstreams):
    """The sections for each maildrop at each of the servers, and for the upstreams that fail."""
    text = _upstream("dead", f"imaps://localhost:{daemons.free_port()}", "*@dead.example", "")
    # Its certificate is good, but from an authority that this upstream is not allowed to have.
    text += _upstream("untrusted", _imap_urls(upstreams[0])[0], "untrusted.*", "", certificates.own().ca_path)
    for server in upstreams:
        for number, (kind, maildrop) in enumerate(MAILDROPS.items()):
            url = _imap_urls(server)[number % 2]
            text += _upstream(f"{server.name}-{kind}", url, f"{kind}.*@{server.domain}", maildrop)
        for kind, url in zip(("imaps", "starttls"), _imap_urls(server)):
            text += _upstream(f"{server.name}-{kind}", url, f"{kind}.*@{server.domain}", "")
        text += _upstream(f"{server.name}-password", _imap_urls(server)[0], f"password-*@{server.domain}", "")
    return text


class Popgate:
    """A running popgate: clear text with STLS on one port, implicit TLS on another."""

    def __init__(self, upstreams, name="popgate", extra=""):
        self.clear_port, self.tls_port, self.admin_port = (daemons.free_port() for _ in range(3))
        self._checked = 0
        own = certificates.own()
        config_path = os.path.join(daemons.FOLDER, f"{name}.toml")
        with open(config_path, "w", encoding="utf-8") as file:
            file.write(f"""
[pop3]
listen = ["{daemons.HOST}:{self.clear_port}"]
listen_tls = ["{daemons.HOST}:{self.tls_port}"]

[admin]
listen = "{daemons.HOST}:{self.admin_port}"

[tls]
certificate = "{own.certificate_path}"
private_key = "{own.key_path}"

[limits]
upstream_connections_per_account = 20

[timeouts]
upstream = "20s"
{config(upstreams)}{extra}""")
        # What is logged at no level can be in no log: everything that could give a secret away is to be seen.
        loud = {"POPGATE_LOG": os.environ.get("POPGATE_LOG", "trace"), "RUST_BACKTRACE": "1", "NO_COLOR": "1"}
        self.daemon = daemons.Daemon(name, [_binary(), "serve", "--config", config_path], environment=loud)
        self.daemon.wait_until(self.is_ready, "/readyz does not say ready")

    def is_ready(self):
        try:
            self._get("/readyz")
        except OSError:
            return False
        return True

    def _get(self, path):
        with urllib.request.urlopen(f"http://{daemons.HOST}:{self.admin_port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def wait_until_idle(self):
        """Waits until no client is connected, so that what follows a session's end has happened."""

        def idle():
            active = re.findall(r"^popgate_connections_active(?:{[^}]*})? (\S+)$", self._get("/metrics"), re.MULTILINE)
            # Without the metric this would wait for nothing, and what follows would prove nothing.
            assert active, "no popgate_connections_active in /metrics"
            return all(float(value) == 0 for value in active)

        daemons.wait_until(idle, "popgate_connections_active is not 0")

    def client(self, tls=None):
        """A POP3 connection, not logged in."""
        port = self.tls_port if tls == "implicit" else self.clear_port
        return pop3.Client(port, tls, certificates.own().client_context())

    def session(self, user, tls=None):
        """A POP3 session of a user."""
        client = self.client(tls)
        try:
            return client.login(user.login, user.password)
        except BaseException:
            client.drop()
            raise

    def complaints(self):
        """What must not be in a log, found in the part written since the last call."""
        written = self.daemon.log(self._checked)
        # The last line may not be finished; it is looked at again.
        finished = written[: written.rfind("\n") + 1]
        self._checked += len(finished.encode(errors="surrogateescape"))
        secrets = [servers.PASSWORD, *servers.AWKWARD_PASSWORDS.values()]
        forbidden = ["panicked at"] + [form for secret in secrets for form in _printed_forms(secret)]
        # Most often there is none at all, which one search for each in the whole text tells fastest.
        found = [word for word in forbidden if word in written]
        return [line[:500] for line in written.splitlines() if any(word in line for word in found)] if found else []


def _printed_forms(secret):
    """A secret as it is, as {:?} or a quoted string would show it, and inside of base64."""
    yield secret
    yield secret.replace("\\", "\\\\")
    yield secret.replace("\\", "\\\\").replace('"', '\\"')
    for before in range(3):
        # Whatever stands before and after it changes no more than the outer characters.
        encoded = base64.b64encode(b"\0" * before + secret.encode()).decode().rstrip("=")
        yield encoded[before and before + 1 : -1]


def _binary():
    path = os.path.abspath(os.environ.get("POPGATE_BIN") or os.path.join(daemons.TARGET, "debug/popgate"))
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"{path} is not there; build it with cargo, or set POPGATE_BIN")
    return path
