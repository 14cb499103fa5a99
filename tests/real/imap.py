"""What a server itself holds, seen by an IMAP client beside popgate."""

import imaplib
import re

import certificates

# An answer about an unknown number of messages of any size is one list of Python objects; a line of it is not.
imaplib._MAXLINE = 10_000_000


class Held:
    """One message as the server holds it."""

    def __init__(self, uid, flags, size, octets):
        self.uid, self.flags, self.size, self.octets = uid, flags, size, octets


class Client:
    """An IMAP client that fails loudly; folders are given as ASCII."""

    def __init__(self, port, login, password):
        self._imap = imaplib.IMAP4_SSL("localhost", port, ssl_context=certificates.upstream().client_context())
        # As a SASL exchange, since imaplib's LOGIN does not quote.
        answer = f"\0{login}\0{password}".encode()
        self._imap.authenticate("PLAIN", lambda _: answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.logout()

    def logout(self):
        try:
            self._imap.logout()
        except (imaplib.IMAP4.error, OSError):
            pass

    def command(self, name, *arguments):
        """Sends one command and insists on OK."""
        kind, answer = self._imap.xatom(name, *arguments)
        if kind != "OK":
            raise AssertionError(f"{name} {arguments}: {kind} {answer}")
        return answer

    def select(self, folder="INBOX"):
        kind, answer = self._imap.select(f'"{folder}"')
        assert kind == "OK", answer
        return self

    def uid(self, *arguments):
        """Sends one UID command and insists on OK."""
        kind, answer = self._imap.uid(*arguments)
        assert kind == "OK", (arguments, kind, answer)
        return answer

    def uid_validity(self, folder="INBOX"):
        return self._status(folder, "UIDVALIDITY")

    def uid_next(self, folder="INBOX"):
        return self._status(folder, "UIDNEXT")

    def count(self, folder="INBOX"):
        return self._status(folder, "MESSAGES")

    def _status(self, folder, item):
        answer = self._imap.status(f'"{folder}"', f"({item})")[1][0]
        return int(re.search(rb"%s (\d+)" % item.encode(), answer)[1])

    def held(self, folder="INBOX", octets=True):
        """All messages of a folder, ascending by UID; nothing is marked as seen."""
        if self.count(folder) == 0:
            return []
        self.select(folder)
        items = "(UID FLAGS RFC822.SIZE BODY.PEEK[])" if octets else "(UID FLAGS RFC822.SIZE)"
        messages = []
        literal, before = None, b""
        for part in self.uid("FETCH", "1:*", items):
            # One message is ("1 (UID … BODY[] {n}", literal), b" …)", or a single b"1 (UID …)" without a literal.
            if isinstance(part, tuple):
                before, literal = part
            else:
                messages.append(_held(before + part, literal))
                literal, before = None, b""
        return sorted(messages, key=lambda message: message.uid)

    def subjects(self, folder="INBOX"):
        """The Subject of each message of a folder, which is how most tests tell them apart."""
        return [_subject(message.octets) for message in self.held(folder)]

    def email_ids(self, folder="INBOX"):
        """The EMAILID (RFC 8474) of each message of a folder."""
        self.select(folder)
        return [re.search(rb"EMAILID \(([^)]*)\)", line)[1].decode() for line in self.uid("FETCH", "1:*", "(EMAILID)")]

    def flag(self, uid, flag):
        """Sets a flag on one message of the selected folder."""
        self.uid("STORE", str(uid), "+FLAGS.SILENT", f"({flag})")

    def expunge(self, uid):
        """Removes one message of the selected folder for good."""
        self.flag(uid, r"\Deleted")
        self.uid("EXPUNGE", str(uid))

    def append(self, octets, folder="INBOX"):
        kind, answer = self._imap.append(f'"{folder}"', None, None, octets)
        assert kind == "OK", answer


def _held(items, octets):
    uid = int(re.search(rb"UID (\d+)", items)[1])
    flags = re.search(rb"FLAGS \(([^)]*)\)", items)[1].decode().split()
    size = int(re.search(rb"RFC822\.SIZE (\d+)", items)[1])
    return Held(uid, set(flags), size, octets)


def _subject(octets):
    found = re.search(rb"^Subject: *([^\r\n]*)", octets, re.MULTILINE)
    return found[1].decode() if found else ""
