"""Truth under faults: whatever is killed and whenever, the mailbox is as the clients were told.

A round is one popgate with a few sessions, each of which retrieves, deletes and quits. At a random moment popgate is
killed, or Dovecot's imap processes are. What must hold then:

- a message that is gone was marked with DELE, and QUIT was sent;
- after +OK to QUIT every marked message is gone;
- no message is marked \\Deleted unless DELE and QUIT were sent for it;
- under the policy `trash`, what is gone is in the trash;
- a RETR that came to its terminator brought all of the message.
"""

import argparse
import imaplib
import os
import random
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../real"))

import daemons
import pop3
import servers

MESSAGES = 6
SESSIONS = 3
# Of those rounds in which the moment is not just behind a QUIT.
SECONDS_GUESSED = 0.15
SETTINGS = """
# Whose process it is, to find those of one round.
verbose_proctitle = yes
# Without, the deaths of its children would throttle it.
service imap {
  process_limit = 512
}
"""


class Told:
    """What one client did and heard."""

    def __init__(self):
        self.marked = set()
        self.quit_sent = threading.Event()
        self.confirmed = False
        self.refused = False
        self.spoilt = []
        self.late = set()


class Mailbox:
    """A user and the messages that are in his INBOX."""

    def __init__(self, server, policy, number):
        self.server, self.policy = server, policy
        self.user = server.user(f"{policy}{number}")
        self.present = {}
        # What a QUIT without +OK has asked for: a server may finish it with the next session, from its journal.
        self.asked = set()
        self.count = 0

    def fill(self):
        """Until there are MESSAGES of them."""
        new = {}
        while len(self.present) + len(new) < MESSAGES:
            self.count += 1
            name = f"m{self.count}"
            new[name] = f"Subject: {name}\r\n\r\n".encode() + b"a line of text\r\n" * random.randrange(1, 400)
        self.user.put(*new.values())
        self.present |= new

    def look(self):
        """What the server holds: the INBOX with flags, and the trash, by Subject."""
        imap = imaplib.IMAP4(daemons.HOST, self.server.imap_port)
        imap.login(self.user.login, self.user.password)
        inbox = _subjects(imap, "INBOX")
        trash = _subjects(imap, self.server.trash)
        imap.logout()
        return inbox, trash

    def judge(self, told):
        """Compares, and takes over what is there now."""
        inbox, trash = self.look()
        gone = set(self.present) - set(inbox)
        flagged = {name for name, flags in inbox.items() if rb"\Deleted" in flags}
        lies = list(told.spoilt)
        if told.quit_sent.is_set():
            self.asked |= told.marked
        permitted = self.asked
        told.late = gone - told.marked
        if gone - permitted:
            lies.append(f"gone without DELE and QUIT: {sorted(gone - permitted)}")
        if flagged - permitted:
            lies.append(f"marked \\Deleted without DELE and QUIT: {sorted(flagged - permitted)}")
        if told.confirmed and told.marked - gone:
            lies.append(f"+OK to QUIT, but still there: {sorted(told.marked - gone)}")
        if self.policy == "trash" and gone - set(trash):
            lies.append(f"neither in the INBOX nor in the trash: {sorted(gone - set(trash))}")
        if set(inbox) - set(self.present):
            lies.append(f"came back: {sorted(set(inbox) - set(self.present))}")
        self.present = {name: octets for name, octets in self.present.items() if name in inbox}
        self.asked &= set(self.present)
        if flagged:
            # popgate does not list them any more, so that they would only be in the way.
            self._tidy()
            self.present = {name: octets for name, octets in self.present.items() if name not in flagged}
        return lies

    def _tidy(self):
        with self.user.imap() as client:
            client.select().command("EXPUNGE")


def _subjects(imap, folder):
    kind, answer = imap.select(f'"{folder}"', readonly=True)
    assert kind == "OK", answer
    if answer == [b"0"]:
        return {}
    kind, parts = imap.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    assert kind == "OK", parts
    return {
        re.search(rb"Subject: (\S+)", part[1])[1].decode(): re.search(rb"FLAGS \(([^)]*)\)", part[0])[1]
        for part in parts
        if isinstance(part, tuple)
    }


class Popgate:
    """A process to be killed."""

    def __init__(self, server, policy):
        self.port = daemons.free_port()
        binary = os.environ.get("POPGATE_BIN") or os.path.join(daemons.TARGET, "debug/popgate")
        environment = {
            "POPGATE__UPSTREAM__DEFAULT__IMAP": f"imap://{daemons.HOST}:{server.imap_port}",
            "POPGATE__POP3__LISTEN": f"{daemons.HOST}:{self.port}",
            "POPGATE__ADMIN__LISTEN": "off",
            "POPGATE__MAILDROP__ON_DELETE": policy,
            "POPGATE_LOG": "warn",
        }
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", binary, "serve"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=daemons.FOLDER,
        )
        daemons.wait_until(lambda: daemons.listens(self.port) or self.process.poll() is not None, "popgate listens")

    def kill(self):
        self.process.kill()

    def end(self):
        """What it said at WARN and above."""
        self.process.kill()
        return self.process.communicate()[1].decode()


def converse(port, mailbox, told, chance):
    """One session; it ends wherever its connection does."""
    try:
        with pop3.Client(port) as client:
            client.login(mailbox.user.login, mailbox.user.password)
            names = {}
            for number in client.sizes():
                octets = client.retr(number)
                name = re.match(rb"Subject: (\S+)", octets)[1].decode()
                if octets != mailbox.present.get(name):
                    told.spoilt.append(f"RETR of {name} brought {len(octets)} other octets")
                names[number] = name
            for number, name in names.items():
                if chance.random() < 0.5:
                    # From the moment of sending nobody can know.
                    told.marked.add(name)
                    client.dele(number)
            told.quit_sent.set()
            client.quit()
            told.confirmed = True
    except pop3.Refused:
        told.refused = True
    except (OSError, EOFError):
        pass


def kill_imap(server, users):
    """Kills the processes that serve these users."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                title = file.read().decode(errors="replace")
            if title.startswith("dovecot/imap") and any(user.login in title for user in users):
                os.kill(int(pid), 9)
        except (OSError, ProcessLookupError):
            pass


def play(server, popgate, mailboxes, chance):
    """One round; returns the kind of death, what each client was told, and whether popgate is to be replaced."""
    tolds = [Told() for _ in mailboxes]
    sessions = [
        threading.Thread(target=converse, args=(popgate.port, mailbox, told, random.Random(chance.random())))
        for mailbox, told in zip(mailboxes, tolds)
    ]
    for session in sessions:
        session.start()
    if chance.random() < 0.5:
        tolds[chance.randrange(len(tolds))].quit_sent.wait(2)
        time.sleep(chance.random() * 0.02)
    else:
        time.sleep(chance.random() * SECONDS_GUESSED)
    victim = "popgate" if chance.random() < 0.7 else "imap"
    if victim == "popgate":
        popgate.kill()
    else:
        kill_imap(server, [mailbox.user for mailbox in mailboxes])
    for session in sessions:
        session.join(60)
        if session.is_alive():
            tolds[0].spoilt.append("a session hangs")
    return victim, tolds


class Slot(threading.Thread):
    """Plays rounds one after the other, beside others."""

    def __init__(self, number, server, rounds, seed):
        super().__init__(daemon=True)
        self.number, self.server, self.rounds = number, server, rounds
        self.chance = random.Random(f"{seed}.{number}")
        self.lies, self.tally, self.crash = [], {}, None

    def run(self):
        try:
            self._run()
        except Exception as error:  # In a thread it would go unnoticed.
            self.crash = error

    def _run(self):
        policy = ("expunge", "trash")[self.number % 2]
        mailboxes = [Mailbox(self.server, policy, f"{self.number}-{place}") for place in range(SESSIONS)]
        popgate = None
        while (number := next(self.rounds, None)) is not None:
            for mailbox in mailboxes:
                mailbox.fill()
            popgate = popgate or Popgate(self.server, policy)
            victim, tolds = play(self.server, popgate, mailboxes, self.chance)
            if victim == "popgate":
                said, popgate = popgate.end(), None
                if "panicked" in said:
                    self.lies.append(f"round {number}: {said}")
            # What the upstream has been asked for it still does, for a moment.
            time.sleep(0.05)
            for mailbox, told in zip(mailboxes, tolds):
                self.lies += [f"round {number}, {victim} killed, {mailbox.user.login}: {lie}" for lie in mailbox.judge(told)]
                self._count(victim, told)
        if popgate:
            popgate.end()

    def _count(self, victim, told):
        if told.confirmed:
            outcome = "QUIT confirmed"
        elif told.refused:
            outcome = "refused by -ERR"
        elif told.quit_sent.is_set():
            outcome = "cut off behind QUIT"
        else:
            outcome = "cut off before QUIT"
        keys = [f"{victim} killed: {outcome}"]
        if told.late:
            keys.append("whose predecessor's QUIT was finished late")
        for key in keys:
            self.tally[key] = self.tally.get(key, 0) + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", default=str(random.randrange(1 << 32)))
    parser.add_argument("--slots", type=int, default=4, help="how many play at once")
    arguments = parser.parse_args()
    print(f"{arguments.rounds} rounds, --seed {arguments.seed}", flush=True)
    server = servers.Dovecot("kill", settings=SETTINGS)
    began = time.monotonic()
    numbers = Numbers(arguments.rounds)
    slots = [Slot(number, server, numbers, arguments.seed) for number in range(arguments.slots)]
    for slot in slots:
        slot.start()
    for slot in slots:
        slot.join()
    tally = {}
    for slot in slots:
        for key, count in slot.tally.items():
            tally[key] = tally.get(key, 0) + count
    for key, count in sorted(tally.items()):
        print(f"{count:6} sessions, {key}")
    lies = [lie for slot in slots for lie in slot.lies]
    crashes = [slot.crash for slot in slots if slot.crash]
    for lie in lies[:50]:
        print(lie)
    for crash in crashes:
        print(f"the harness itself failed: {crash!r}\n{server.daemon.log()[-2000:]}")
    # That the moments fall everywhere is part of the claim.
    reached = {outcome for outcome in ("confirmed", "behind QUIT", "before QUIT") if any(outcome in key for key in tally)}
    if arguments.rounds >= 100 and len(reached) < 3:
        crashes.append("some moments were never hit")
        print(f"only these were hit: {reached}")
    print(f"{arguments.rounds} rounds in {time.monotonic() - began:.0f} s: {len(lies)} lies")
    return 1 if lies or crashes else 0


class Numbers:
    """The rounds, dealt out to whoever comes."""

    def __init__(self, count):
        self._numbers, self._lock = iter(range(count)), threading.Lock()

    def __next__(self):
        with self._lock:
            return next(self._numbers)

    def __iter__(self):
        return self


if __name__ == "__main__":
    sys.exit(main())
