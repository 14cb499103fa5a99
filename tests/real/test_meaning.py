"""What a POP3 session means to the mailbox, looked at afterwards by an IMAP client beside popgate."""

import base64
import unittest

import daemons
import messages
import popgate
import pop3
import servers
import world


def _inbox(user):
    """The Subject of each message in the INBOX, starred when it is marked \\Deleted."""
    with user.imap() as client:
        held = client.held()
        subjects = client.subjects()
    return [subject + "*" * (r"\Deleted" in message.flags) for subject, message in zip(subjects, held)]


def _folder(user, folder):
    with user.imap() as client:
        return client.subjects(folder)


def _listed(session):
    """The Subject of each message that POP3 lists."""
    return [_subject(session.top(number, 0)) for number in session.sizes()]


def _subject(octets):
    return octets.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()


class DeletePolicies(world.TestCase):
    """DELE and QUIT under each policy, with a message among them that somebody else marked."""

    def user(self, server, kind, folder=None):
        """A user with m1 to m5, m3 marked by another client."""
        user = server.user(kind).put(*messages.small(5))
        with user.imap() as client:
            if folder:
                client.command("CREATE", f'"{folder}"')
            client.select().flag(client.held()[2].uid, r"\Deleted")
        return user

    def delete_m2_and_m5(self, user):
        with self.popgate.session(user) as session:
            self.assertEqual(_listed(session), ["m1", "m2", "m4", "m5"])
            session.dele(2, 4)
            self.assertEqual(_inbox(user), ["m1", "m2", "m3*", "m4", "m5"], "before QUIT")
            session.quit()

    def assert_listed_next_time(self, user, subjects):
        with self.popgate.session(user) as session:
            self.assertEqual(_listed(session), subjects)
            session.quit()

    def assert_gone(self, server, user, folder=None):
        """m2 and m5 have left the INBOX, or are marked where nothing can leave it safely."""
        if server is world.without_uidplus():
            self.assertEqual(_inbox(user), ["m1", "m2*", "m3*", "m4", "m5*"])
            if folder:
                self.assertIn(_folder(user, folder), [[], ["m2", "m5"]])
        else:
            self.assertEqual(_inbox(user), ["m1", "m3*", "m4"])
            if folder:
                self.assertEqual(_folder(user, folder), ["m2", "m5"])
        self.assert_listed_next_time(user, ["m1", "m4"])

    @world.on_each(world.all_servers)
    def test_expunge(self, server):
        user = self.user(server, "expunge")
        self.delete_m2_and_m5(user)
        self.assert_gone(server, user)
        self.assertEqual(_folder(user, server.trash), [])

    def test_downgrade_shows_in_the_log(self):
        user = self.user(world.without_uidplus(), "expunge")
        before = len(self.popgate.daemon.log())
        self.delete_m2_and_m5(user)

        def is_told():
            lines = self.popgate.daemon.log()[before:].splitlines()
            return any(" WARN " in line and "UIDPLUS" in line for line in lines)

        # The log is written behind the session.
        daemons.wait_until(is_told, "no WARN that speaks of UIDPLUS")

    @world.on_each(world.all_servers)
    def test_trash(self, server):
        user = self.user(server, "trash")
        self.delete_m2_and_m5(user)
        self.assert_gone(server, user, server.trash)

    @world.on_each(world.all_servers)
    def test_archive(self, server):
        user = self.user(server, "archive")
        self.delete_m2_and_m5(user)
        self.assert_gone(server, user, server.archive)

    @world.on_each(world.all_servers)
    def test_move_to_a_folder(self, server):
        user = self.user(server, "move", "Elsewhere")
        self.delete_m2_and_m5(user)
        self.assert_gone(server, user, "Elsewhere")

    @world.on_each(world.all_servers)
    def test_move_to_a_folder_that_is_not_ascii(self, server):
        user = self.user(server, "utf7", "&ANw-brige Post")
        self.delete_m2_and_m5(user)
        self.assert_gone(server, user, "&ANw-brige Post")

    @world.on_each(world.all_servers)
    def test_move_to_a_folder_that_is_missing_loses_nothing(self, server):
        user = self.user(server, "missing")
        with self.popgate.session(user) as session:
            session.dele(2, 4)
            try:
                session.quit()
            except pop3.Refused as refused:
                self.assertIn("[SYS/", str(refused))
                self.assertEqual(_inbox(user), ["m1", "m2", "m3*", "m4", "m5"])
                return
        # Then it was created, or nothing can leave the INBOX.
        self.assert_gone(server, user, None if server is world.without_uidplus() else "Not There")

    @world.on_each(world.all_servers)
    def test_flag(self, server):
        user = self.user(server, "flag")
        self.delete_m2_and_m5(user)
        self.assertEqual(_inbox(user), ["m1", "m2*", "m3*", "m4", "m5*"])
        self.assert_listed_next_time(user, ["m1", "m4"])

    @world.on_each(world.all_servers)
    def test_keep(self, server):
        user = self.user(server, "keep")
        self.delete_m2_and_m5(user)
        self.assertEqual(_inbox(user), ["m1", "m2", "m3*", "m4", "m5"])
        self.assert_listed_next_time(user, ["m1", "m4"])

    @world.on_each(world.all_servers)
    def test_two_sessions_delete_the_same(self, server):
        user = server.user("expunge").put(*messages.small(3))
        with self.popgate.session(user) as one, self.popgate.session(user) as other:
            one.dele(1, 2)
            other.dele(2)
            one.quit()
            other.quit()
        expected = ["m1*", "m2*", "m3"] if server is world.without_uidplus() else ["m3"]
        self.assertEqual(_inbox(user), expected)

    @world.on_each(world.two_servers)
    def test_hundreds_at_once(self, server):
        user = server.user("trash").put(*messages.small(400))
        with self.popgate.session(user) as session:
            # Every other one, so that no range of UIDs says it briefly.
            numbers = range(1, 401, 2)
            session.send(b"\r\n".join(b"DELE %d" % number for number in numbers))
            for _ in numbers:
                session.status()
            session.quit()
        self.assertEqual(_inbox(user), [f"m{number}" for number in range(2, 401, 2)])
        self.assertEqual(_folder(user, server.trash), [f"m{number}" for number in numbers])


class Sessions(world.TestCase):
    """The snapshot of a session, and what its end does."""

    def user(self, server, count, kind="expunge"):
        """A user with m1, m2, … in the INBOX."""
        return server.user(kind).put(*messages.small(count))

    def assert_untouched(self, user, count):
        self.popgate.wait_until_idle()
        self.assertEqual(_inbox(user), [f"m{number}" for number in range(1, count + 1)])

    @world.on_each(world.two_servers)
    def test_capabilities_are_the_same_before_and_after_login(self, server):
        user = self.user(server, 0)
        with self.popgate.client() as session:
            session.ask(b"CAPA")
            before = session.multi_line()
            session.login(user.login, user.password)
            session.ask(b"CAPA")
            self.assertEqual(session.multi_line(), before)
            words = before.split()
            for word in (b"TOP", b"UIDL", b"USER", b"SASL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"STLS"):
                self.assertIn(word, words)
            session.quit()

    @world.on_each(world.two_servers)
    def test_numbers_never_move(self, server):
        user = self.user(server, 4)
        with self.popgate.session(user) as session:
            before, ids = session.sizes(), session.unique_ids()
            session.dele(2)
            left = [1, 3, 4]
            self.assertEqual(session.sizes(), {number: before[number] for number in left})
            self.assertEqual(session.unique_ids(), {number: ids[number] for number in left})
            self.assertEqual(session.stat(), (3, sum(before[number] for number in left)))
            self.assertEqual(_subject(session.retr(3)), "m3")
            for line in (b"RETR 2", b"TOP 2 0", b"LIST 2", b"UIDL 2", b"DELE 2", b"RETR 0", b"RETR 5", b"RETR -1"):
                with self.assertRaises(pop3.Refused, msg=line):
                    session.ask(line)

    @world.on_each(world.two_servers)
    def test_expunged_by_another_client(self, server):
        user = self.user(server, 4)
        with self.popgate.session(user) as session, user.imap() as other:
            sizes = session.sizes()
            other.select().expunge(other.held()[1].uid)
            if server is world.cyrus():
                # Cyrus hands it out in full until it has told this session, which it does behind the first FETCH
                # (RFC 2180 section 4.1); Dovecot answers NIL at once.
                self.assertEqual(session.retr(2), messages.small(4)[1])
            for line in (b"RETR 2", b"TOP 2 0", b"RETR 2"):
                # No response code of RFC 3206 fits what will not come back, least of all SYS/TEMP: "try again".
                with self.assertRaisesRegex(pop3.Refused, r"^(?!\[SYS/|\[AUTH)", msg=line):
                    session.ask(line)
            self.assertEqual([_subject(session.retr(number)) for number in (1, 3, 4)], ["m1", "m3", "m4"])
            self.assertEqual(session.sizes(), sizes)
            session.dele(3)
            session.quit()
        self.assertEqual(_inbox(user), ["m1", "m4"])

    @world.on_each(world.two_servers)
    def test_deleted_here_and_expunged_there(self, server):
        user = self.user(server, 3)
        with self.popgate.session(user) as session, user.imap() as other:
            session.dele(1, 2)
            other.select().expunge(other.held()[1].uid)
            session.quit()
        self.assertEqual(_inbox(user), ["m3"])

    @world.on_each(world.two_servers)
    def test_new_mail_waits(self, server):
        user = self.user(server, 2)
        with self.popgate.session(user) as session, user.imap() as other:
            before = session.stat()
            other.append(messages.message("new"))
            session.ask(b"NOOP")
            self.assertEqual(session.stat(), before)
            with self.assertRaises(pop3.Refused):
                session.ask(b"RETR 3")
            session.dele(1)
            session.quit()
        self.assertEqual(_inbox(user), ["m2", "new"])
        with self.popgate.session(user) as session:
            self.assertEqual(_listed(session), ["m2", "new"])
            session.quit()

    @world.on_each(world.two_servers)
    def test_no_quit_deletes_nothing(self, server):
        user = self.user(server, 3)
        with self.popgate.session(user) as session:
            session.retr(1)
            session.dele(1, 2)
        self.assert_untouched(user, 3)

    @world.on_each(world.two_servers)
    def test_a_client_that_leaves_in_the_middle_of_a_message(self, server):
        user = self.user(server, 1)
        user.put(messages.message("big", b"0123456789" * 1_000_000))
        with self.popgate.session(user) as session:
            session.dele(1)
            session.ask(b"RETR 2")
        self.popgate.wait_until_idle()
        self.assertEqual(_inbox(user), ["m1", "big"])

    @world.on_each(world.two_servers)
    def test_rset(self, server):
        user = self.user(server, 3)
        with self.popgate.session(user) as session:
            before = session.stat()
            session.dele(1, 2)
            session.ask(b"RSET")
            self.assertEqual(session.stat(), before)
            session.quit()
        self.assert_untouched(user, 3)

    @world.on_each(world.two_servers)
    def test_exclusive(self, server):
        user = self.user(server, 1, "exclusive")
        with self.popgate.session(user) as first:
            with self.assertRaisesRegex(pop3.Refused, r"^\[IN-USE\]"):
                self.popgate.session(user)
            first.quit()
        self.popgate.session(user).quit()
        # A client that just vanishes does not keep its lock.
        self.popgate.session(user).drop()
        self.popgate.wait_until_idle()
        self.popgate.session(user).quit()

    @world.on_each(world.two_servers)
    def test_another_folder(self, server):
        user = self.user(server, 1, "folder")
        with user.imap() as client:
            client.command("CREATE", '"Elsewhere"')
            client.append(messages.message("there"), "Elsewhere")
        with self.popgate.session(user) as session:
            self.assertEqual(_listed(session), ["there"])
            session.dele(1)
            session.quit()
        self.assertEqual((_inbox(user), _folder(user, "Elsewhere")), (["m1"], []))


class Logins(world.TestCase):
    """Who gets in, and what the others are told."""

    def test_awkward_passwords(self):
        for server in world.two_servers():
            for kind in servers.AWKWARD_PASSWORDS:
                with self.subTest(server=server.name, kind=kind):
                    user = server.user_with_password(kind)
                    self.popgate.session(user).quit()
                    for session in (self.sasl_plain(user), self.sasl_plain_asked(user), self.sasl_login(user)):
                        session.quit()

    def sasl_plain(self, user):
        session = self.popgate.client("implicit")
        session.ask(b"AUTH PLAIN " + base64.b64encode(f"\0{user.login}\0{user.password}".encode()))
        return session

    def sasl_plain_asked(self, user):
        session = self.popgate.client("stls")
        session.send(b"AUTH PLAIN")
        session.answer_challenge(f"\0{user.login}\0{user.password}".encode())
        session.status()
        return session

    def sasl_login(self, user):
        session = self.popgate.client("stls")
        session.send(b"AUTH LOGIN")
        session.answer_challenge(user.login.encode())
        session.answer_challenge(user.password.encode())
        session.status()
        return session

    def test_wrong_password(self):
        for server in world.two_servers():
            user = server.user("plain")
            for password in ("wrong", servers.PASSWORD + " ", " " + servers.PASSWORD, servers.PASSWORD.upper()):
                with self.subTest(server=server.name, password=password), self.popgate.client() as session:
                    with self.assertRaisesRegex(pop3.Refused, r"^\[AUTH\]"):
                        session.login(user.login, password)
                    # The connection is good for another try.
                    session.login(user.login, user.password).quit()

    def test_upstream_that_is_down(self):
        with self.popgate.client() as session, self.assertRaisesRegex(pop3.Refused, r"^\[SYS/TEMP\]"):
            session.login("somebody@dead.example", servers.PASSWORD)

    def test_upstream_with_an_unknown_authority(self):
        user = servers.User(world.dovecot(), "untrusted.1@dovecot.example", servers.PASSWORD)
        with self.popgate.client() as session, self.assertRaisesRegex(pop3.Refused, r"^\[SYS/(TEMP|PERM)\]"):
            session.login(user.login, user.password)
        self.assertNotIn(user.login, user.server.daemon.log(), "the login was sent all the same")

    def test_login_that_no_route_takes(self):
        with self.popgate.client() as session, self.assertRaises(pop3.Refused):
            session.login("somebody@nowhere.example", servers.PASSWORD)

    def test_routes_by_login(self):
        users = [server.user("plain") for server in world.all_servers()]
        for user in users:
            user.put(messages.message(f"at {user.server.name}"))
        for user in users:
            with self.subTest(server=user.server.name), self.popgate.session(user) as session:
                self.assertEqual(_listed(session), [f"at {user.server.name}"])
                session.quit()


class UniqueIds(world.TestCase):
    """The formats of UIDL, computed from what IMAP says."""

    FORMATS = {
        "plain": lambda uid, validity: f"{uid:08x}{validity:08x}",
        "uid": lambda uid, validity: f"{uid}",
        "cyrus": lambda uid, validity: f"{validity}.{uid}",
        "courier": lambda uid, validity: f"{validity}-{uid}",
        "uw": lambda uid, validity: f"{validity:08x}{uid:08x}",
    }

    def test_formats(self):
        for kind, unique_id in self.FORMATS.items():
            for server in world.two_servers():
                with self.subTest(server=server.name, format=kind):
                    user = server.user(kind).put(*messages.small(3))
                    with user.imap() as client:
                        validity = client.uid_validity()
                        expected = [unique_id(held.uid, validity) for held in client.held()]
                    self.assert_stable(user, expected)

    def test_emailid(self):
        # Of the two only Cyrus has OBJECTID (RFC 8474).
        user = world.cyrus().user("emailid").put(*messages.small(3))
        with user.imap() as client:
            expected = client.email_ids()
        self.assertEqual(len(set(expected)), 3)
        self.assert_stable(user, expected)

    def assert_stable(self, user, expected):
        with self.popgate.session(user) as session:
            self.assertEqual(list(session.unique_ids().values()), expected)
            self.assertEqual(session.ask(b"UIDL 2"), f"2 {expected[1]}")
            session.dele(1)
            session.quit()
        user.put(messages.message("new"))
        with self.popgate.session(user) as session:
            now = list(session.unique_ids().values())
            self.assertEqual(now[:2], expected[1:])
            self.assertNotIn(now[2], expected)
            session.quit()


class Endings(unittest.TestCase):
    """Sessions that lose one of their ends; with processes of their own, since they are killed."""

    def test_kill_of_popgate_leaves_nothing_marked(self):
        upstreams = world.two_servers()
        doomed = popgate.Popgate(upstreams, "killed")
        self.addCleanup(doomed.daemon.stop)
        users = [server.user(kind).put(*messages.small(3)) for server in upstreams for kind in ("expunge", "flag")]
        for user in users:
            session = doomed.session(user)
            self.addCleanup(session.drop)
            session.retr(1)
            session.dele(1, 2)
        doomed.daemon.kill()
        for user in users:
            self.assertEqual(_inbox(user), ["m1", "m2", "m3"], user)
        self.assertEqual(doomed.complaints(), [])

    def test_upstream_stops_in_mid_session(self):
        upstream = servers.Dovecot("stopped")
        self.addCleanup(upstream.stop)
        gateway = popgate.Popgate([upstream], "survivor")
        self.addCleanup(gateway.daemon.stop)
        reader, deleter = (gateway.session(upstream.user("expunge").put(*messages.small(3))) for _ in range(2))
        self.addCleanup(reader.drop)
        self.addCleanup(deleter.drop)
        deleter.dele(1)
        upstream.stop()
        with self.assertRaisesRegex(pop3.Refused, r"^\[SYS/TEMP\]"):
            reader.ask(b"RETR 1")
        with self.assertRaisesRegex(pop3.Refused, r"^\[SYS/TEMP\]"):
            deleter.quit()
        with gateway.client() as late, self.assertRaisesRegex(pop3.Refused, r"^\[SYS/TEMP\]"):
            late.login(upstream.login("expunge"), servers.PASSWORD)
        self.assertTrue(gateway.daemon.is_running())
        self.assertEqual(gateway.complaints(), [])
        daemons.wait_until(gateway.is_ready, "still ready")


if __name__ == "__main__":
    unittest.main()
