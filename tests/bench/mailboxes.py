"""Mailboxes of the upstream, and what is to be sent; of each the manifest of what must be found in it."""

import base64
import hashlib
import os
import random
import shutil

import daemons
import servers

_LINE_OCTETS = 76


class Mailbox:
    """The INBOX of everybody whose login ends with @NAME: so many messages, these in turn."""

    def __init__(self, upstream, name, distinct, count):
        self.name = name
        self.manifest_path = os.path.join(upstream.folder, f"{name}.manifest")
        files = []
        with open(self.manifest_path, "w", encoding="ascii") as manifest:
            for number in range(count):
                # UIDs are given in the order of these names, which tell the octets as stored and with CRLF.
                turn = number % len(distinct)
                octets = len(distinct[turn])
                name_of_file = f"1700000000.M{number:06}P1.localhost,S={octets},W={octets}:2,"
                path = os.path.join(upstream.maildir(name), "cur", name_of_file)
                if turn == number:
                    with open(path, "wb") as file:
                        file.write(distinct[turn])
                    shutil.chown(path, servers.MAIL_OWNER, servers.MAIL_OWNER)
                    files.append((path, hashlib.sha256(distinct[turn]).hexdigest()))
                else:
                    os.link(files[turn][0], path)
                manifest.write(f"{octets} {files[turn][1]}\n")

    def login(self, who):
        return f"{who}@{self.name}"


class Outbox:
    """A folder of messages to be sent, each in a file."""

    def __init__(self, name, contents):
        self.count = len(contents)
        self.folder = os.path.join(daemons.FOLDER, f"outbox-{name}")
        self.manifest_path = self.folder + ".manifest"
        os.mkdir(self.folder)
        with open(self.manifest_path, "w", encoding="ascii") as manifest:
            for number, octets in enumerate(contents):
                with open(os.path.join(self.folder, f"{number:06}"), "wb") as file:
                    file.write(octets)
                manifest.write(f"{len(octets)} {hashlib.sha256(octets).hexdigest()}\n")


def messages(count, octets, seed):
    """Messages of about so many octets each, all with lines that POP3 has to stuff."""
    chance = random.Random(seed)
    return [_message(number, int(octets * chance.uniform(0.9, 1.1)), chance) for number in range(1, count + 1)]


def _message(number, octets, chance):
    header = (
        f"From: Alice <alice@example.org>\r\nTo: bob@example.org\r\nSubject: Message {number}\r\n"
        f"Message-ID: <{number}@example.org>\r\nDate: Mon, 3 Feb 2025 10:00:00 +0000\r\n\r\n.begins with a dot\r\n"
    ).encode()
    # What repeats itself after a megabyte is as good as what does not, and sooner made.
    text = base64.b64encode(chance.randbytes(min(octets, 1 << 20)))
    lines = [text[at : at + _LINE_OCTETS] for at in range(0, len(text), _LINE_OCTETS)]
    lines[:: 100] = [b"." + line for line in lines[::100]]
    block = b"\r\n".join(lines) + b"\r\n"
    body = block * (octets // len(block) + 1)
    # No message ends in the middle of a line, nor between CR and LF.
    body = body[: max(0, octets - len(header))]
    return header + body[: body.rfind(b"\r\n") + 2 if b"\r\n" in body else 0]
