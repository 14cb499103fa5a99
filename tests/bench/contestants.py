"""Those who are measured, each with the upstream at a port of loopback, which may be a link's."""

import functools
import itertools
import json
import os
import shutil
import subprocess

import certificates
import daemons
import servers

# How the table calls them.
LIMIT, POPGATE, IMAPC, POP3, NGINX, RELAY = "IMAP", "popgate", "imapc", "own POP3", "nginx", "relay"
# The same of those who send: directly, or through Dovecot's submission service.
SMTP, SUBMISSIOND = "SMTP", "submissiond"

# Where `run` has cargo build the tool, and whom it measures.
TOOL = os.environ["POPGATE_BENCH_TOOL"]
_NUMBERS = itertools.count(1)

# As Debian's own configuration has it, so that no process complains; and no waiting for anything.
_DOVECOT_COMMON = f"""
    listen = {daemons.HOST}
    log_path = /dev/stderr
    auth_failure_delay = 0
    first_valid_uid = 1
    first_valid_gid = 1
    mail_max_userip_connections = 0
    default_client_limit = 16384
    # imapc holds a message whole, and more than once.
    default_vsz_limit = 0
    service anvil {{
      unix_listener anvil-auth-penalty {{
        mode = 0
      }}
    }}
    service stats {{
      unix_listener stats-writer {{
        mode = 0666
      }}
    }}
    service pop3-login {{
      # Dovecot's high-performance mode: a few processes for all logins.
      service_count = 0
      process_min_avail = 2
    }}
    service pop3 {{
      # Processes are used again, and some are there beforehand.
      service_count = 1000
      process_min_avail = 4
    }}
"""


class Contestant:
    """Whom a client connects to, whose processes are looked at, and by what link it has the upstream.

    What is sent goes to a sink of its own.
    """

    def __init__(self, name, protocol, port, daemon=None, link=None, sink=None):
        self.name, self.protocol, self.port = name, protocol, port
        self.daemon, self.link, self.sink = daemon, link, sink

    def stop(self):
        for part in (self.daemon, self.link, self.sink):
            if part:
                part.stop()


class Upstream(servers.Dovecot):
    """Dovecot set up for many users at once; all of a domain share one Maildir."""

    home = "%d"

    def __init__(self):
        self.pop3_port = daemons.free_port()
        super().__init__("upstream", settings=f"""
            {_DOVECOT_COMMON}
            protocols = imap pop3
            service pop3-login {{
              inet_listener pop3 {{
                port = {self.pop3_port}
              }}
              inet_listener pop3s {{
                port = 0
              }}
            }}
            service imap-login {{
              process_min_avail = 2
            }}
            service imap {{
              service_count = 1000
              process_min_avail = 4
            }}
            maildir_very_dirty_syncs = yes
            mail_fsync = never
            """)


class _Part:
    """A part of the tool that serves on a port until its standard input ends."""

    def __init__(self, *arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([TOOL, *arguments], **pipes, start_new_session=True)
        self.session = self._process.pid
        self.port = self._answer()["port"]

    def _ask(self):
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        return json.loads(self._process.stdout.readline())

    def stop(self):
        self._process.stdin.close()
        self._process.wait(daemons.STOP_SECONDS_MAX)
        self._process.stdout.close()


class Link(_Part):
    """A link to a port; see src/link.rs."""

    def __init__(self, upstream_port, shape):
        super().__init__("link", str(upstream_port), *shape.arguments())

    def octets(self):
        """What has entered the link so far, at either end."""
        counts = self._ask()
        return counts["to_upstream"] + counts["to_client"]


class Sink(_Part):
    """Where messages are sent to, those of an outbox and no others; see src/sink.rs."""

    def __init__(self, outbox):
        super().__init__("sink", outbox.manifest_path)

    def taken(self):
        """How often each message of the outbox has come so far, which must be equally often."""
        taken = self._ask()
        if taken["least"] != taken["most"]:
            raise RuntimeError(f"some messages came {taken['least']} times, others {taken['most']} times")
        return taken["least"]


def relay(pop3_port):
    """What only copies, before the upstream's own POP3."""
    part = _Part("relay", str(pop3_port))
    return Contestant(RELAY, "pop3", part.port, part)


def relay_sending(sink):
    """The same before a sink."""
    part = _Part("relay", str(sink.port))
    return Contestant(RELAY, "smtp", part.port, part, sink=sink)


def direct(sink, link=None):
    """Who sends without a proxy between."""
    return Contestant(SMTP, "smtp", (link or sink).port, link=link, sink=sink)


def popgate(binary, imap_port, link=None):
    """popgate as anybody runs it, but for the number of connections."""
    port = daemons.free_port()
    listeners, upstream = f'listen = ["{daemons.HOST}:{port}"]', f'imap = "imap://{daemons.HOST}:{imap_port}"'
    daemon = _popgate(binary, port, listeners, upstream)
    return Contestant(POPGATE, "pop3", port, daemon, link)


def popgate_sending(binary, imap_port, sink, link=None):
    """popgate before a provider that keeps copies of what was sent itself."""
    port, pop3_port = daemons.free_port(), daemons.free_port()
    listeners = f"""
        listen = ["{daemons.HOST}:{pop3_port}"]

        [smtp]
        listen = ["{daemons.HOST}:{port}"]
        sent_copy = "never"
        """
    upstream = f"""
        imap = "imap://{daemons.HOST}:{imap_port}"
        smtp = "smtp://{daemons.HOST}:{(link or sink).port}"
        """
    daemon = _popgate(binary, port, listeners, upstream)
    return Contestant(POPGATE, "smtp", port, daemon, link, sink)


def popgate_with_tls(binary, imaps_port):
    """popgate with TLS on both sides."""
    port = daemons.free_port()
    own, upstream = certificates.own(), certificates.upstream()
    daemon = _popgate(
        binary,
        port,
        f"""
        listen = []
        listen_tls = ["{daemons.HOST}:{port}"]

        [tls]
        certificate = "{own.certificate_path}"
        private_key = "{own.key_path}"
        """,
        f"""
        imap = "imaps://localhost:{imaps_port}"
        ca_file = "{upstream.ca_path}"
        """,
    )
    return Contestant(POPGATE, "pop3", port, daemon)


def _popgate(binary, port, listeners, upstream):
    name = f"popgate-{next(_NUMBERS)}"
    config_path = os.path.join(daemons.FOLDER, f"{name}.toml")
    with open(config_path, "w", encoding="utf-8") as config:
        config.write(f"""
        [pop3]
        {listeners}

        [admin]
        listen = "off"

        [limits]
        connections_per_address = 10000
        upstream_connections_per_account = 10000

        [upstream.default]
        {upstream}
        """)
    daemon = daemons.Daemon(name, [binary, "serve", "--config", config_path])
    daemon.wait_until(lambda: daemons.listens(port), "does not listen")
    return daemon


def imapc(imap_port, link=None):
    """Dovecot's POP3 server on the upstream's mailboxes, set up as its documentation has a proxy of this kind.

    What one has learned of a mailbox, all others know.
    """
    name = f"imapc-{next(_NUMBERS)}"
    port = daemons.free_port()
    folder = os.path.join(daemons.FOLDER, name)
    os.mkdir(folder)
    config_path = os.path.join(folder, "dovecot.conf")
    with open(config_path, "w", encoding="utf-8") as config:
        config.write(f"""
            base_dir = {folder}/run
            state_dir = {folder}/state
            {_DOVECOT_COMMON}
            protocols = pop3
            ssl = no
            disable_plaintext_auth = no
            service pop3-login {{
              inet_listener pop3 {{
                port = {port}
              }}
            }}
            passdb {{
              driver = imap
              args = host={daemons.HOST} port={imap_port}
              default_fields = userdb_imapc_user=%u userdb_imapc_password=%w
            }}
            userdb {{
              driver = prefetch
            }}
            mail_uid = {servers.MAIL_OWNER}
            mail_gid = {servers.MAIL_OWNER}
            mail_home = {_homes_of_imapc()}/%u
            mail_location = imapc:~/imapc
            imapc_host = {daemons.HOST}
            imapc_port = {imap_port}
            # Without these it fetches whole messages to learn their sizes.
            imapc_features = rfc822.size fetch-headers
            """)
    daemon = daemons.Daemon(name, ["dovecot", "-F", "-c", config_path])
    daemon.wait_until(lambda: daemons.greets(port, b"+OK"), "no greeting")
    return Contestant(IMAPC, "pop3", port, daemon, link)


def submissiond(sink, link=None):
    """Dovecot's submission service."""
    name = f"submissiond-{next(_NUMBERS)}"
    port = daemons.free_port()
    folder = os.path.join(daemons.FOLDER, name)
    os.mkdir(folder)
    shutil.chown(folder, servers.MAIL_OWNER, servers.MAIL_OWNER)
    config_path = os.path.join(folder, "dovecot.conf")
    with open(config_path, "w", encoding="utf-8") as config:
        config.write(f"""
            base_dir = {folder}/run
            state_dir = {folder}/state
            {_DOVECOT_COMMON}
            protocols = submission
            ssl = no
            disable_plaintext_auth = no
            service submission-login {{
              inet_listener submission {{
                port = {port}
              }}
              service_count = 0
            }}
            passdb {{
              driver = static
              args = password={servers.PASSWORD}
            }}
            userdb {{
              driver = static
              args = uid={servers.MAIL_OWNER} gid={servers.MAIL_OWNER} home={folder}/%u
            }}
            mail_location = maildir:~/Maildir
            submission_max_mail_size = 150 M
            submission_relay_host = {daemons.HOST}
            submission_relay_port = {(link or sink).port}
            submission_relay_user = relay
            submission_relay_password = {servers.PASSWORD}
            """)
    daemon = daemons.Daemon(name, ["dovecot", "-F", "-c", config_path])
    daemon.wait_until(lambda: daemons.greets(port, b"220"), "no greeting")
    return Contestant(SUBMISSIOND, "smtp", port, daemon, link, sink)


@functools.cache
def _homes_of_imapc():
    folder = os.path.join(daemons.FOLDER, "homes-of-imapc")
    os.mkdir(folder)
    shutil.chown(folder, servers.MAIL_OWNER, servers.MAIL_OWNER)
    return folder


def nginx(pop3_port):
    """nginx's mail relay before the upstream's own POP3; another nginx tells it where that is."""
    port, where_port = daemons.free_port(), daemons.free_port()
    _nginx("where", f"""
        http {{
          access_log off;
          server {{
            listen {daemons.HOST}:{where_port};
            location / {{
              add_header Auth-Status OK;
              add_header Auth-Server {daemons.HOST};
              add_header Auth-Port {pop3_port};
              return 204;
            }}
          }}
        }}
        """)
    daemon = _nginx("nginx", f"""
        mail {{
          auth_http {daemons.HOST}:{where_port}/;
          server {{
            listen {daemons.HOST}:{port};
            protocol pop3;
          }}
        }}
        """)
    daemon.wait_until(lambda: daemons.greets(port, b"+OK"), "no greeting")
    return Contestant(NGINX, "pop3", port, daemon)


def _nginx(kind, section):
    name = f"{kind}-{next(_NUMBERS)}"
    folder = os.path.join(daemons.FOLDER, name)
    os.mkdir(folder)
    config_path = os.path.join(folder, "nginx.conf")
    with open(config_path, "w", encoding="utf-8") as config:
        config.write(f"""
        load_module /usr/lib/nginx/modules/ngx_mail_module.so;
        daemon off;
        pid {folder}/nginx.pid;
        error_log stderr;
        worker_processes 1;
        worker_rlimit_nofile 8192;
        events {{
          worker_connections 4096;
        }}
        {section}""")
    return daemons.Daemon(name, ["nginx", "-p", folder, "-e", "stderr", "-c", config_path])
