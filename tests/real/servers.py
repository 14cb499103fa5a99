"""Real IMAP servers, private to the run: Dovecot in several variants, and Cyrus."""

import base64
import hmac
import itertools
import json
import os
import pwd
import shutil
import subprocess
import time

import certificates
import daemons
import imap

PASSWORD = "correct-horse-17-battery"
# What breaks quoting, splitting at blanks and the guess that everything is ASCII.
AWKWARD_PASSWORDS = {
    "blanks": "  two  blanks around and in it ",
    "quotes": 'say "hello" and \'bye\'',
    "backslash": r"C:\mail\"\\",
    "utf8": "Grüße, 你好, пароль",
    "punctuation": "{12}% * ( ) ] + ~ # : ; $x `y`",
    "long": "0123456789" * 20,
}

# What `install` unpacked, see there.
_IMAPD = os.path.join(daemons.TARGET, "real/cyrus-imapd/usr/lib/cyrus/bin/imapd")

# Root starts Dovecot and mail belongs to this user, which every Debian has.
MAIL_OWNER = "mail"


class Server:
    """What the tests know about an IMAP server."""

    # The domain of its logins, and the folders that its special uses have.
    domain = trash = archive = None

    def __init__(self, name):
        self.name = name
        self.imap_port = daemons.free_port()
        self.imaps_port = daemons.free_port()
        self.folder = os.path.join(daemons.FOLDER, name)
        os.mkdir(self.folder)
        self._numbers = itertools.count(1)

    def login(self, prefix):
        """A login that nobody has yet; `prefix` is for routes and for whoever reads a log."""
        return f"{prefix}.{next(self._numbers)}@{self.domain}"

    def user(self, prefix, password=PASSWORD):
        """Creates a user with an empty INBOX."""
        raise NotImplementedError

    def put(self, user, messages, folder="INBOX"):
        """Stores messages (octets) as they are, by whatever way the server does not tidy them up."""
        raise NotImplementedError


class User:
    """One account at one server."""

    def __init__(self, server, login, password):
        self.server = server
        self.login = login
        self.password = password

    def __repr__(self):
        return self.login

    def imap(self):
        """Another IMAP client of this user, not through popgate."""
        return imap.Client(self.server.imaps_port, self.login, self.password)

    def put(self, *messages, folder="INBOX"):
        self.server.put(self, messages, folder)
        return self


class Dovecot(Server):
    """Dovecot 2.3 with Maildir."""

    domain = "dovecot.example"
    # Of a user, below the server's folder of mail.
    home = "%u"

    def __init__(self, name, capability=None, trash="Papierkorb", archive="Ablage/Alt", special_use=True, settings=""):
        super().__init__(name)
        self.trash, self.archive = trash, archive
        self.domain = f"{name}.example"
        self._users_path = os.path.join(self.folder, "users")
        self._mail = os.path.join(self.folder, "mail")
        os.mkdir(self._mail)
        shutil.chown(self._mail, MAIL_OWNER, MAIL_OWNER)
        with open(self._users_path, "w", encoding="ascii") as users:
            for kind, password in AWKWARD_PASSWORDS.items():
                # Encoded, because a colon would end the field.
                encoded = base64.b64encode(password.encode()).decode()
                users.write(f"password-{kind}@{self.domain}:{{PLAIN.b64}}{encoded}\n")
        config_path = os.path.join(self.folder, "dovecot.conf")
        with open(config_path, "w", encoding="utf-8") as config:
            config.write(self._config(capability, special_use) + settings)
        self.daemon = daemons.Daemon(name, ["dovecot", "-F", "-c", config_path])
        self.daemon.wait_until(lambda: daemons.greets(self.imap_port, b"* OK"), "no greeting")

    def _config(self, capability, special_use):
        shown = certificates.upstream()
        trash_use = r"special_use = \Trash" if special_use else ""
        archive_use = r"special_use = \Archive" if special_use else ""
        return f"""
            base_dir = {self.folder}/run
            state_dir = {self.folder}/state
            log_path = /dev/stderr
            protocols = imap
            listen = {daemons.HOST}
            ssl_cert = <{shown.certificate_path}
            ssl_key = <{shown.key_path}
            service imap-login {{
              inet_listener imap {{
                port = {self.imap_port}
              }}
              inet_listener imaps {{
                port = {self.imaps_port}
                ssl = yes
              }}
              # One process for all logins; a process each would be most of the run's time.
              service_count = 0
            }}
            service anvil {{
              # No waiting after a wrong password.
              unix_listener anvil-auth-penalty {{
                mode = 0
              }}
            }}
            service stats {{
              # As Debian's own configuration has it, so that no process complains.
              unix_listener stats-writer {{
                mode = 0666
              }}
            }}
            auth_failure_delay = 0
            auth_mechanisms = plain login
            mail_max_userip_connections = 0
            # A session that expunges shows it to the others' next command, not to the next minute's.
            mailbox_idle_check_interval = 1s
            # Those with passwords of their own, then whoever comes, with the common one.
            passdb {{
              driver = passwd-file
              args = {self._users_path}
            }}
            passdb {{
              driver = static
              args = password={PASSWORD}
            }}
            userdb {{
              driver = static
              args = uid={MAIL_OWNER} gid={MAIL_OWNER} home={self._mail}/{self.home}
            }}
            first_valid_uid = 1
            first_valid_gid = 1
            mail_location = maildir:~/Maildir
            {f"imap_capability = {capability}" if capability else ""}
            namespace inbox {{
              inbox = yes
              separator = /
              mailbox {self.trash} {{
                auto = create
                {trash_use}
              }}
              mailbox {self.archive} {{
                auto = create
                {archive_use}
              }}
            }}
            """

    def user(self, prefix, password=PASSWORD):
        assert password == PASSWORD, "those with passwords of their own are known from the start"
        return User(self, self.login(prefix), password)

    def user_with_password(self, kind):
        return User(self, f"password-{kind}@{self.domain}", AWKWARD_PASSWORDS[kind])

    def maildir(self, home, folder="INBOX"):
        """The Maildir of a folder in a user's home, made if it is not there."""
        maildir = os.path.join(self._mail, home, "Maildir")
        if folder != "INBOX":
            maildir = os.path.join(maildir, "." + folder.replace("/", "."))
        for name in ("cur", "new", "tmp"):
            _make_folders(os.path.join(maildir, name), self._mail)
        return maildir

    def put(self, user, messages, folder="INBOX"):
        # Files in Maildir/new are never rewritten. Dovecot hands each bare LF out as CRLF, though, and NUL as 0x80.
        maildir = self.maildir(user.login, folder)
        for octets in messages:
            # UIDs are given in the order of these names.
            path = os.path.join(maildir, "new", f"1700000000.M{next(self._numbers):06}.localhost")
            with open(path, "wb") as file:
                file.write(octets)
            shutil.chown(path, MAIL_OWNER, MAIL_OWNER)

    def stop(self):
        self.daemon.stop()


def _make_folders(path, above):
    """Like os.makedirs, each new folder below `above` given to the owner of the mail."""
    if path != above and not os.path.isdir(path):
        _make_folders(os.path.dirname(path), above)
        os.mkdir(path, 0o700)
        shutil.chown(path, MAIL_OWNER, MAIL_OWNER)


class DovecotWithTokens(Dovecot):
    """Dovecot that takes OAuth tokens besides passwords, and checks them by itself: signed JWT."""

    _KEY = b"a key of at least thirty-two octets"

    def __init__(self, name):
        super().__init__(name, settings=f"""
            auth_mechanisms = plain login xoauth2 oauthbearer
            passdb oauth2 {{
              driver = oauth2
              mechanisms = xoauth2 oauthbearer
              args = {os.path.join(daemons.FOLDER, name)}/oauth2.conf
            }}
            """)

    def _config(self, capability, special_use):
        keys = os.path.join(self.folder, "keys")
        key_folder = os.path.join(keys, "default/HS256")
        os.makedirs(key_folder)
        with open(os.path.join(key_folder, "default"), "wb") as file:
            file.write(base64.b64encode(self._KEY))
        with open(os.path.join(self.folder, "oauth2.conf"), "w", encoding="ascii") as file:
            file.write(f"""
                introspection_mode = local
                local_validation_key_dict = fs:posix:prefix={keys}/
                username_attribute = sub
                """)
        return super()._config(capability, special_use)

    def token(self, user, seconds):
        """A token for a user that is good for so long."""
        now = int(time.time())
        header = {"alg": "HS256", "typ": "JWT"}
        claims = {"sub": user.login, "iat": now - 3600, "exp": now + seconds}
        parts = [_base64url(json.dumps(part).encode()) for part in (header, claims)]
        signature = hmac.digest(self._KEY, ".".join(parts).encode(), "sha256")
        return ".".join([*parts, _base64url(signature)])


def _base64url(octets):
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


class Cyrus(Server):
    """Cyrus 3.6 with users in a private sasldb."""

    domain = "cyrus.example"
    trash, archive = "Weggeworfen", "Ablage"

    _BIN = "/usr/lib/cyrus/bin"
    _ADMIN = "cyrus-admin"

    def __init__(self, name="cyrus"):
        super().__init__(name)
        shutil.chown(self.folder, "cyrus", "mail")
        for below in ("config", "config/socket", "partition"):
            os.mkdir(os.path.join(self.folder, below))
            shutil.chown(os.path.join(self.folder, below), "cyrus", "mail")
        # A copy, because user cyrus may not be allowed to look where it was unpacked.
        self._imapd = shutil.copy(_IMAPD, self.folder)
        self._config_path = self._write("imapd.conf", self._imapd_conf())
        self._sasldb = os.path.join(self.folder, "sasldb")
        self._set_password(self._ADMIN, PASSWORD)
        master = [f"{self._BIN}/master", "-C", self._config_path, "-M", self._write("cyrus.conf", self._cyrus_conf())]
        self.daemon = daemons.Daemon(name, [*master, "-D", "-p", f"{self.folder}/master.pid"], user="cyrus")
        self.daemon.wait_until(lambda: daemons.greets(self.imap_port, b"* OK"), "no greeting")

    def _write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def _imapd_conf(self):
        shown = certificates.upstream()
        return f"""
configdirectory: {self.folder}/config
defaultpartition: default
partition-default: {self.folder}/partition
sievedir: {self.folder}/sieve
idlesocket: {self.folder}/config/socket/idle
lmtpsocket: {self.folder}/config/socket/lmtp
admins: {self._ADMIN}
virtdomains: userid
defaultdomain: localhost
servername: localhost
altnamespace: yes
unixhierarchysep: yes
hashimapspool: yes
sasl_mech_list: PLAIN LOGIN
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {self.folder}/sasldb
allowplaintext: no
failedloginpause: 0
tls_server_cert: {shown.certificate_path}
tls_server_key: {shown.key_path}
syslog_prefix: popgate-test
"""

    def _cyrus_conf(self):
        return f"""
START {{
  recover cmd="{self._BIN}/ctl_cyrusdb -C {self._config_path} -r"
}}
SERVICES {{
  imap cmd="{self._imapd} -C {self._config_path} -U 100" listen="{daemons.HOST}:{self.imap_port}" prefork=1
  imaps cmd="{self._imapd} -C {self._config_path} -s -U 100" listen="{daemons.HOST}:{self.imaps_port}" prefork=2
}}
EVENTS {{
}}
"""

    def _run(self, *command, **options):
        cyrus = pwd.getpwnam("cyrus")
        options = {"check": True, "capture_output": True, "timeout": 60, "cwd": self.folder, **options}
        return subprocess.run(command, user=cyrus.pw_uid, group=cyrus.pw_gid, extra_groups=[], **options)

    def _set_password(self, login, password):
        name, _, realm = login.partition("@")
        command = ["saslpasswd2", "-c", "-p", "-f", self._sasldb, "-u", realm or "localhost", name]
        self._run(*command, input=password.encode())

    def user(self, prefix, password=PASSWORD):
        login = self.login(prefix)
        self._set_password(login, password)
        name, _, domain = login.partition("@")
        with imap.Client(self.imaps_port, self._ADMIN, PASSWORD) as admin:
            admin.command("CREATE", f'"user/{name}@{domain}"')
        user = User(self, login, password)
        with user.imap() as client:
            client.command("CREATE", f'"{self.trash}"', r"(USE (\Trash))")
            client.command("CREATE", f'"{self.archive}"', r"(USE (\Archive))")
        return user

    def user_with_password(self, kind):
        return self.user(f"password-{kind}", AWKWARD_PASSWORDS[kind])

    def put(self, user, messages, folder="INBOX"):
        # APPEND refuses NUL, an empty message and a first line that is no header field, and repairs bare LF and CR.
        # What lies in the spool is taken into the index as it is, except for the empty message, and handed out so.
        name, _, domain = user.login.partition("@")
        mailbox = f"user/{name}@{domain}" if folder == "INBOX" else f"user/{name}/{folder}@{domain}"
        with user.imap() as client:
            uid_next = client.uid_next(folder)
        spool = self._run(f"{self._BIN}/mbpath", "-C", self._config_path, mailbox).stdout.decode().strip()
        for uid, octets in enumerate(messages, uid_next):
            path = os.path.join(spool, f"{uid}.")
            with open(path, "wb") as file:
                file.write(octets)
            shutil.chown(path, "cyrus", "mail")
        self._run(f"{self._BIN}/reconstruct", "-C", self._config_path, mailbox)
