"""The servers and the popgate that all tests of a run share, each started when first used."""

import functools
import unittest

import popgate as popgate_daemon
import servers

# Whole variants of Dovecot rather than users, because a server's capabilities are the same for all.
_BASE = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ NAMESPACE UNSELECT ESEARCH"


@functools.cache
def dovecot():
    return servers.Dovecot("dovecot")


@functools.cache
def cyrus():
    return servers.Cyrus()


@functools.cache
def without_uidplus():
    """Neither UIDPLUS nor MOVE: nothing can be removed without taking what others marked."""
    return servers.Dovecot("without-uidplus", capability=f"{_BASE} SPECIAL-USE")


@functools.cache
def without_move():
    """UIDPLUS only: a move is a copy and an expunge of its own."""
    return servers.Dovecot("without-move", capability=f"{_BASE} SPECIAL-USE UIDPLUS")


@functools.cache
def without_special_use():
    """Folders can be found by their well-known names only."""
    return servers.Dovecot(
        "without-special-use", capability=f"{_BASE} UIDPLUS MOVE", trash="Trash", archive="Archive", special_use=False
    )


def all_servers():
    return [dovecot(), cyrus(), without_uidplus(), without_move(), without_special_use()]


def two_servers():
    """The ones that differ in more than what they offer."""
    return [dovecot(), cyrus()]


def on_each(servers_of_test):
    """Makes a test that is given a server one that runs at each of them."""

    def decorate(test):
        @functools.wraps(test)
        def on_all(self):
            for server in servers_of_test():
                with self.subTest(server=server.name):
                    test(self, server)

        return on_all

    return decorate


@functools.cache
def popgate():
    return popgate_daemon.Popgate(all_servers())


class TestCase(unittest.TestCase):
    """A test that also fails when popgate's log has what no log may have."""

    maxDiff = 2000

    def setUp(self):
        self.popgate = popgate()
        self.addCleanup(self._check_log)

    def _check_log(self):
        self.assertEqual(self.popgate.complaints(), [], "in popgate's log")
        if not self.popgate.daemon.is_running():
            self.fail(self.popgate.daemon.last_words())
