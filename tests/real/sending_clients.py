"""Unmodified clients that send, each told in its own words to send one message (octets with CRLF)."""

import json
import os
import smtplib
import subprocess

import certificates
import submission_servers

RUN_SECONDS_MAX = 30


class Failed(Exception):
    """The client said that something went wrong; its output is the argument."""


class Client:
    """A client for one account; `tls` is None, "starttls" or "implicit"."""

    def __init__(self, folder, ports, user, tls):
        self.folder, self.user, self.tls = folder, user, tls
        self.port = ports["implicit" if tls == "implicit" else "clear"]
        self.ca_path = certificates.own().ca_path

    def send(self, message, recipients):
        """Sends as the user."""
        raise NotImplementedError

    def write(self, name, octets):
        path = os.path.join(self.folder, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(octets)
        return path

    def execute(self, *command, given=b"", environment=None):
        environment = {"PATH": os.environ["PATH"], "HOME": self.folder, "LC_ALL": "C.UTF-8", **(environment or {})}
        result = subprocess.run(
            command, cwd=self.folder, env=environment, input=given, capture_output=True, timeout=RUN_SECONDS_MAX, check=False
        )
        output = (result.stdout + result.stderr).decode(errors="replace")
        if result.returncode != 0:
            raise Failed(f"{command[0]} ended with {result.returncode}:\n{output[-3000:]}")
        return output


class Curl(Client):
    def send(self, message, recipients):
        scheme = "smtps" if self.tls == "implicit" else "smtp"
        options = ["--silent", "--show-error", "--cacert", self.ca_path, "--user", f"{self.user.login}:{self.user.password}"]
        options += ["--ssl-reqd"] * (self.tls == "starttls")
        for recipient in recipients:
            options += ["--mail-rcpt", recipient]
        path = self.write("message", message)
        url = f"{scheme}://localhost:{self.port}/client.example"
        self.execute("curl", *options, "--mail-from", self.user.login, "--upload-file", path, url)


class Swaks(Client):
    def send(self, message, recipients):
        path = self.write("message", message.replace(b"\r\n", b"\n"))
        options = {None: [], "starttls": ["--tls"], "implicit": ["--tls-on-connect"]}[self.tls]
        if self.tls:
            options += ["--tls-verify", "--tls-ca-path", self.ca_path]
        self.execute(
            "swaks", "--server", "localhost", "--port", str(self.port), *options, "--auth", "LOGIN",
            "--auth-user", self.user.login, "--auth-password", self.user.password, "--from", self.user.login,
            "--to", ",".join(recipients), "--data", f"@{path}", "--pipeline",
        )  # fmt: skip


class Msmtp(Client):
    def send(self, message, recipients):
        config = f"""
account default
host localhost
port {self.port}
auth {"on" if self.tls else "plain"}
user {self.user.login}
password {self.user.password}
from {self.user.login}
tls {"on" if self.tls else "off"}
tls_starttls {"on" if self.tls == "starttls" else "off"}
{f"tls_trust_file {self.ca_path}" if self.tls else ""}
"""
        path = self.write("msmtprc", config.encode())
        self.execute("msmtp", "--file", path, *recipients, given=message.replace(b"\r\n", b"\n"))


class Smtplib(Client):
    def send(self, message, recipients):
        context = certificates.own().client_context()
        if self.tls == "implicit":
            session = smtplib.SMTP_SSL("localhost", self.port, context=context, timeout=RUN_SECONDS_MAX)
        else:
            session = smtplib.SMTP("localhost", self.port, timeout=RUN_SECONDS_MAX)
        with session:
            if self.tls == "starttls":
                session.starttls(context=context)
            session.login(self.user.login, self.user.password)
            self.deliver(session, recipients, message)

    def deliver(self, session, recipients, message):
        session.sendmail(self.user.login, recipients, message)


class Chunks(Smtplib):
    """The same by BDAT, without waiting for any answer."""

    def deliver(self, session, recipients, message):
        if not session.has_extn("chunking"):
            raise Failed("CHUNKING is not offered")
        commands = [f"MAIL FROM:<{self.user.login}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)]
        half = len(message) // 2
        said = b"".join(command.encode() + b"\r\n" for command in commands)
        said += f"BDAT {half}\r\n".encode() + message[:half]
        said += f"BDAT {len(message) - half} LAST\r\n".encode() + message[half:]
        session.send(said)
        replies = [session.getreply() for _ in range(len(commands) + 2)]
        if any(code != 250 for code, _ in replies):
            raise Failed(str(replies))


_NODE_PROGRAM = b"""
const nodemailer = require("nodemailer");
const fs = require("fs");
const options = JSON.parse(fs.readFileSync(0));
if (options.ca) options.tls = { ca: fs.readFileSync(options.ca) };
nodemailer.createTransport(options).sendMail(
  { envelope: options.envelope, raw: fs.readFileSync(options.message) },
  (error) => { if (error) { console.error(String(error)); process.exit(1); } },
);
"""


class Nodemailer(Client):
    def send(self, message, recipients):
        program = self.write("send.js", _NODE_PROGRAM)
        options = {
            "host": "localhost",
            "port": self.port,
            "secure": self.tls == "implicit",
            "requireTLS": self.tls == "starttls",
            "ignoreTLS": self.tls is None,
            "auth": {"user": self.user.login, "pass": self.user.password},
            "envelope": {"from": self.user.login, "to": recipients},
            "message": self.write("message", message),
            "ca": self.ca_path if self.tls else None,
        }
        environment = submission_servers.node_environment()
        self.execute("node", program, given=json.dumps(options).encode(), environment=environment)


ALL = [Curl, Swaks, Msmtp, Smtplib, Chunks, Nodemailer]
