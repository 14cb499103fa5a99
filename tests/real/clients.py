"""Unmodified POP3 clients, each told in its own words to fetch a mailbox into a folder."""

import os
import poplib
import subprocess

import certificates
import daemons

RUN_SECONDS_MAX = 30


class Failed(Exception):
    """The client said that something went wrong; its output is the argument."""


class Client:
    """One installation of a client for one account, with whatever it remembers between its runs."""

    # How it may be told to secure the connection: None, "stls", "implicit".
    tls_modes = (None, "stls", "implicit")
    # Whether it knows in a second run what it fetched in the first.
    remembers = True

    def __init__(self, folder, popgate, user, tls, delete):
        self.folder, self.user, self.tls, self.delete = folder, user, tls, delete
        self.port = popgate.tls_port if tls == "implicit" else popgate.clear_port
        self.ca_path = certificates.own().ca_path
        self.out = os.path.join(folder, "out")
        for name in ("cur", "new", "tmp"):
            os.makedirs(os.path.join(self.out, name))
        self.set_up()

    def set_up(self):
        """Writes the client's own config."""

    def run(self):
        """Fetches once."""
        raise NotImplementedError

    def fetch(self):
        """Runs the client and returns what it delivered this time, octets without CR at line ends, sorted."""
        self.run()
        delivered = []
        for below, _, names in os.walk(self.out):
            for name in names:
                path = os.path.join(below, name)
                with open(path, "rb") as file:
                    delivered.append(file.read().replace(b"\r\n", b"\n"))
                os.remove(path)
        return sorted(delivered)

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        # Some refuse a config with a password that others can read.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def execute(self, *command, accepted=(0,)):
        """Runs a command that must end with one of the accepted codes, and returns its standard output."""
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder, "LC_ALL": "C.UTF-8"}
        result = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, timeout=RUN_SECONDS_MAX, check=False
        )
        if result.returncode not in accepted:
            output = (result.stdout + result.stderr).decode(errors="replace")
            raise Failed(f"{command[0]} ended with {result.returncode}:\n{output[-3000:]}")
        return result.stdout


class Curl(Client):
    remembers = False

    def run(self):
        scheme = "pop3s" if self.tls == "implicit" else "pop3"
        self.url = f"{scheme}://localhost:{self.port}/"
        # Of a listing without lines curl makes one blank line.
        numbers = [line.split()[0].decode() for line in self.curl(self.url).split(b"\r\n") if line]
        if not numbers:
            return
        arguments = []
        for number in numbers:
            arguments += [self.url + number, "-o", os.path.join(self.out, "new", number)]
        self.curl(*arguments)
        if self.delete:
            # Without a body, which DELE does not answer with.
            deletions = [["--head", "--request", f"DELE {number}", self.url] for number in numbers]
            first, *others = [["-o", "/dev/null", *arguments] for arguments in deletions]
            self.curl(*first, *(part for other in others for part in ("--next", *self.common(), *other)))

    def common(self):
        options = ["--silent", "--show-error", "--fail", "--cacert", self.ca_path]
        options += ["--user", f"{self.user.login}:{self.user.password}"]
        return options + ["--ssl-reqd"] * (self.tls == "stls")

    def curl(self, *arguments):
        return self.execute("curl", *self.common(), *arguments)


class Fetchmail(Client):
    def set_up(self):
        secure = {None: "sslproto ''", "stls": "sslproto 'tls1.2+'", "implicit": "ssl sslproto 'tls1.2+'"}[self.tls]
        certificate = "" if self.tls is None else f"sslcertck sslcertfile '{self.ca_path}'"
        # `uidl` makes it remember; `invisible` and `no rewrite` keep it from adding to the header.
        self.config = self.write(
            "fetchmailrc",
            f"""
            set no bouncemail
            set invisible
            poll localhost service {self.port} protocol pop3 uidl
              user "{self.user.login}" password "{self.user.password}"
              {secure} {certificate}
              {"no keep fetchall" if self.delete else "keep"} no rewrite
              mda "cat > {self.out}/new/$$"
            """,
        )

    def run(self):
        # 1 says that there was no mail to fetch.
        arguments = ["--nodetach", "--verbose", "--fetchmailrc", self.config, "--idfile", f"{self.folder}/fetchids"]
        self.execute("fetchmail", *arguments, "--pidfile", f"{self.folder}/pid", accepted=(0, 1))


class Mpop(Client):
    def set_up(self):
        self.config = self.write(
            "mpoprc",
            f"""
            account default
            host localhost
            port {self.port}
            user {self.user.login}
            password {self.user.password}
            auth {"on" if self.tls else "plain"}
            tls {"on" if self.tls else "off"}
            tls_starttls {"on" if self.tls == "stls" else "off"}
            {f"tls_trust_file {self.ca_path}" if self.tls else ""}
            pipelining on
            keep {"off" if self.delete else "on"}
            received_header off
            uidls_file {self.folder}/uidls
            delivery maildir {self.out}
            """,
        )

    def run(self):
        self.execute("mpop", "--debug", "--file", self.config)


class Getmail(Client):
    # It has no STLS.
    tls_modes = (None, "implicit")

    def set_up(self):
        implicit = self.tls == "implicit"
        self.write(
            "getmailrc",
            f"""\
[retriever]
type = {"SimplePOP3SSLRetriever" if implicit else "SimplePOP3Retriever"}
server = localhost
port = {self.port}
username = {self.user.login}
password = {self.user.password}
{f"ca_certs = {self.ca_path}" if implicit else ""}

[destination]
# Its own Maildir delivery refuses to work for root, whom these tests run as.
type = MDA_external
path = /bin/sh
arguments = ("-c", "cat > {self.out}/new/$$")
allow_root_commands = true

[options]
delete = {"true" if self.delete else "false"}
read_all = false
delivered_to = false
received = false
""",
        )

    def run(self):
        self.execute(os.path.join(daemons.TARGET, "real/getmail/bin/getmail"), "--getmaildir", self.folder)


class Poplib(Client):
    remembers = False

    def run(self):
        context = certificates.own().client_context()
        if self.tls == "implicit":
            session = poplib.POP3_SSL("localhost", self.port, context=context)
        else:
            session = poplib.POP3("localhost", self.port)
        if self.tls == "stls":
            session.stls(context)
        session.user(self.user.login)
        session.pass_(self.user.password)
        for line in session.list()[1]:
            number = line.split()[0].decode()
            with open(os.path.join(self.out, "new", number), "wb") as file:
                file.writelines(text + b"\n" for text in session.retr(number)[1])
            if self.delete:
                session.dele(number)
        session.quit()
