"""Real submission servers, private to the run: Postfix that delivers into Dovecot, and nodemailer's smtp-server."""

import os
import re
import shutil
import socket

import certificates
import daemons
import servers

# What `install` unpacked, see there.
_POSTFIX = os.path.abspath(os.path.join(daemons.TARGET, "real/postfix"))
_NODE_MODULES = os.path.abspath(os.path.join(daemons.TARGET, "real/node/node_modules"))

# Postfix' own users, which its package would create; every Debian has these.
_OWNER, _GROUP = "daemon", "operator"


class Mailboxes(servers.Dovecot):
    """Dovecot that also checks logins for Postfix."""

    def __init__(self, name="sending"):
        self.auth_path = os.path.join(daemons.FOLDER, name, "auth")
        settings = f"""
            service auth {{
              unix_listener {self.auth_path} {{
                mode = 0666
              }}
            }}
            # So that popgate has one to put copies into.
            namespace inbox {{
              mailbox Verschickt {{
                auto = create
                special_use = \\Sent
              }}
            }}
            """
        super().__init__(name, settings=settings)

    @property
    def mail_folder(self):
        return self._mail


# Into a Maildir that may be yet to come; Postfix' own delivery wants to know all of them beforehand.
_DELIVERY = """
set -e
umask 077
mkdir -p "$1/tmp" "$1/new" "$1/cur"
file=$(mktemp "$1/tmp/XXXXXXXXXX")
cat >"$file"
mv "$file" "$1/new/$(date +%s.%N).$(basename "$file")"
"""


class Postfix:
    """Submission with SASL and STARTTLS; what is sent to users of the mailboxes is delivered there."""

    def __init__(self, mailboxes, name="postfix"):
        self.port = daemons.free_port()
        self.folder = os.path.join(daemons.FOLDER, name)
        self._config = os.path.join(self.folder, "config")
        self._queue = os.path.join(self.folder, "queue")
        for path in (self.folder, self._config, self._queue, os.path.join(self.folder, "data")):
            os.mkdir(path)
        shutil.chown(os.path.join(self.folder, "data"), _OWNER)
        self._make_queue()
        self._write("main.cf", self._main_cf(mailboxes))
        self._write("master.cf", self._master_cf(mailboxes))
        self._write("deliver", _DELIVERY)
        # Its programs find their libraries in place of the system's.
        environment = {"LD_LIBRARY_PATH": f"{_POSTFIX}/usr/lib/postfix", "MAIL_CONFIG": self._config}
        command = [f"{_POSTFIX}/usr/lib/postfix/sbin/master", "-d", "-c", self._config]
        self.daemon = daemons.Daemon(name, command, environment=environment)
        self.daemon.wait_until(lambda: daemons.greets(self.port, b"220"), "no greeting")

    def _make_queue(self):
        for below in (
            "active bounce corrupt defer deferred flush hold incoming private saved trace maildrop public pid".split()
        ):
            path = os.path.join(self._queue, below)
            os.mkdir(path, 0o700)
            if below != "pid":
                shutil.chown(path, _OWNER)
        for below, mode in (("maildrop", 0o730), ("public", 0o710)):
            path = os.path.join(self._queue, below)
            shutil.chown(path, group=_GROUP)
            os.chmod(path, mode)

    def _write(self, name, text):
        with open(os.path.join(self._config, name), "w", encoding="ascii") as file:
            file.write(text)

    def _main_cf(self, mailboxes):
        shown = certificates.upstream()
        return f"""
compatibility_level = 3.6
queue_directory = {self._queue}
data_directory = {self.folder}/data
command_directory = {_POSTFIX}/usr/sbin
daemon_directory = {_POSTFIX}/usr/lib/postfix/sbin
shlib_directory = {_POSTFIX}/usr/lib/postfix
meta_directory = {_POSTFIX}/etc/postfix
import_environment = MAIL_CONFIG LD_LIBRARY_PATH LANG=C POSTLOG_SERVICE
mail_owner = {_OWNER}
setgid_group = {_GROUP}
maillog_file = {self.folder}/log
maillog_file_prefixes = {self.folder}
inet_interfaces = {daemons.HOST}
inet_protocols = ipv4
myhostname = mail.{mailboxes.domain}
mynetworks =
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
disable_dns_lookups = yes
smtpd_peername_lookup = no
message_size_limit = 62914560
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {shown.certificate_path}
smtpd_tls_key_file = {shown.key_path}
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {mailboxes.auth_path}
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access inline:{{nobody@{mailboxes.domain}=REJECT}}, permit_sasl_authenticated, reject
virtual_mailbox_domains = {mailboxes.domain}
virtual_mailbox_maps = static:anybody
virtual_transport = maildir
"""

    def _master_cf(self, mailboxes):
        return f"""
{daemons.HOST}:{self.port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
maildir unix - n n - - pipe
  user=mail argv=/bin/sh {self._config}/deliver {mailboxes.mail_folder}/${{recipient}}/Maildir
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


_NODE_PROGRAM = """
const { SMTPServer } = require("smtp-server");
const fs = require("fs");
const [port, folder, key, cert, password] = process.argv.slice(2);
let count = 0;
const refused = (code, text) => Object.assign(new Error(text), { responseCode: code });
new SMTPServer({
  secure: true,
  key: fs.readFileSync(key),
  cert: fs.readFileSync(cert),
  authMethods: ["PLAIN", "LOGIN"],
  logger: false,
  onAuth: (auth, session, done) =>
    auth.password === password ? done(null, { user: auth.username }) : done(refused(535, "wrong password")),
  onRcptTo: (address, session, done) =>
    address.address.startsWith("nobody@") ? done(refused(550, "who?")) : done(),
  onData: (stream, session, done) => {
    const path = `${folder}/${String(++count).padStart(4, "0")}`;
    const file = fs.createWriteStream(path + ".part");
    stream.pipe(file);
    file.on("close", () => { fs.renameSync(path + ".part", path); done(); });
  },
}).listen(Number(port), "127.0.0.1");
"""


class NodeServer:
    """nodemailer's smtp-server with TLS from the first octet; keeps what it gets octet by octet."""

    def __init__(self, name="node"):
        self.port = daemons.free_port()
        self.folder = os.path.join(daemons.FOLDER, name)
        os.mkdir(self.folder)
        program = os.path.join(daemons.FOLDER, f"{name}.js")
        with open(program, "w", encoding="ascii") as file:
            file.write(_NODE_PROGRAM)
        shown = certificates.upstream()
        arguments = [str(self.port), self.folder, shown.key_path, shown.certificate_path, servers.PASSWORD]
        self.daemon = daemons.Daemon(name, ["node", program, *arguments], environment=node_environment())
        self.daemon.wait_until(self._is_listening, "it does not listen")

    def _is_listening(self):
        try:
            with socket.create_connection((daemons.HOST, self.port), timeout=5) as connection:
                context = certificates.upstream().client_context()
                with context.wrap_socket(connection, server_hostname="localhost") as secured:
                    return secured.recv(3) == b"220"
        except OSError:
            return False

    def take(self):
        """The messages that came since the last time, in their order."""
        names = sorted(name for name in os.listdir(self.folder) if re.fullmatch(r"\d+", name))
        taken = []
        for name in names:
            path = os.path.join(self.folder, name)
            with open(path, "rb") as file:
                taken.append(file.read())
            os.remove(path)
        return taken


def node_environment():
    """Where Node finds what `install` got from npm."""
    return {"NODE_PATH": _NODE_MODULES}
