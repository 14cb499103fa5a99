"""What POP3 lists after a random history is what the server holds, however little of it was asked for."""

import random

import world

# Enough for each kind of change to meet each other; the same every time, so that a failure comes again.
_STEPS = 60
_SEED = 1939


class Listings(world.TestCase):
    """A mailbox that others change between the sessions of a client, and within them."""

    # Mod-sequences and ESEARCH; ESEARCH alone; and Cyrus' own mind of either.
    @world.on_each(lambda: [world.dovecot(), world.without_move(), world.cyrus()])
    def test_random_histories(self, server):
        chance = random.Random(_SEED)
        user = server.user("expunge")
        with user.imap() as other:
            other.select()
            for step in range(_STEPS):
                with self.subTest(seed=_SEED, step=step):
                    self._change(other, chance)
                    if chance.random() < 0.6:
                        self._compare(other, user)
                    if chance.random() < 0.3:
                        self._delete(other, user, chance)

    @world.on_each(world.two_servers)
    def test_newest_alone(self, server):
        user = server.user("newest")
        with user.imap() as other:
            for number in range(7):
                other.append(b"Subject: %d\r\n\r\n" % number)
            other.select()
            self._compare(other, user, newest=3)
            # One is hidden, and an older one is seen in its place.
            other.flag(self._uids(other)[-1], r"\Deleted")
            self._compare(other, user, newest=3)
            before = self._expected(other)
            with self.popgate.session(user) as session:
                for number in session.unique_ids():
                    session.dele(number)
                session.quit()
            self.assertEqual(self._expected(other), before[:-3])
            self._compare(other, user, newest=3)

    def _change(self, other, chance):
        """Mail comes; or a message leaves, is marked as deleted, or is not any more."""
        uids = self._uids(other)
        kind = chance.choice(["come", "come", "leave", "mark", "unmark"])
        if kind == "come" or not uids:
            for _ in range(chance.randrange(1, 4)):
                other.append(b"Subject: %d\r\n\r\n%s\r\n" % (len(uids), b"x" * chance.randrange(200)))
        elif kind == "leave":
            other.expunge(chance.choice(uids))
        elif kind == "mark":
            other.flag(chance.choice(uids), r"\Deleted")
        else:
            other.uid("STORE", str(chance.choice(uids)), "-FLAGS.SILENT", r"(\Deleted)")

    def _uids(self, other):
        return [int(uid) for uid in other.uid("SEARCH", "ALL")[0].split()]

    def _expected(self, other):
        """UIDL and size of each message that nobody has marked as deleted."""
        validity = other.uid_validity()
        held = [message for message in other.held(octets=False) if r"\Deleted" not in message.flags]
        return [(f"{message.uid:08x}{validity:08x}", message.size) for message in held]

    def _listed(self, session):
        ids, sizes = session.unique_ids(), session.sizes()
        self.assertEqual(list(ids), list(sizes))
        return [(ids[number], sizes[number]) for number in ids]

    def _compare(self, other, user, newest=1_000_000):
        expected = self._expected(other)[-newest:]
        with self.popgate.session(user) as session:
            self.assertEqual(self._listed(session), expected)
            # What comes meanwhile waits for the next session.
            other.append(b"Subject: later\r\n\r\n")
            self.assertEqual(self._listed(session), expected)
            session.quit()

    def _delete(self, other, user, chance):
        """This client deletes as well, and what it deleted does not come back."""
        with self.popgate.session(user) as session:
            ids = session.unique_ids()
            if not ids:
                return
            gone = chance.choice(list(ids))
            session.dele(gone)
            session.quit()
        self.assertNotIn(ids[gone], [unique_id for unique_id, _ in self._expected(other)])
