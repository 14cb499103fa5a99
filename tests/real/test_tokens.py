"""OAuth tokens that a client brings along, checked by a real server."""

import base64

import messages
import popgate
import pop3
import servers
import world


def _xoauth2(login, token):
    return b"XOAUTH2", f"user={login}\x01auth=Bearer {token}\x01\x01"


def _oauthbearer(login, token):
    return b"OAUTHBEARER", f"n,a={login},\x01auth=Bearer {token}\x01\x01"


class Tokens(world.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = servers.DovecotWithTokens("with-tokens")
        cls.addClassCleanup(cls.server.stop)
        cls.gateway = popgate.Popgate([cls.server], name="popgate-tokens")
        cls.addClassCleanup(cls.gateway.daemon.stop)

    def log_in(self, user, response, seconds):
        """A session by a token that is good for so long."""
        mechanism, text = response(user.login, self.server.token(user, seconds))
        client = self.gateway.client("implicit")
        self.addCleanup(client.drop)
        client.ask(b"AUTH " + mechanism + b" " + base64.b64encode(text.encode()))
        return client

    def test_a_token_opens_the_mailbox(self):
        for response in (_xoauth2, _oauthbearer):
            user = self.server.user("plain").put(*messages.small(2))
            # The second time more goes out together with the token.
            for _ in range(2):
                with self.log_in(user, response, 600) as session:
                    self.assertEqual(session.stat()[0], 2)
                    session.quit()

    def test_an_expired_one_is_refused_as_such(self):
        for response in (_xoauth2, _oauthbearer):
            user = self.server.user("plain").put(*messages.small(1))
            with self.log_in(user, response, 600) as session:
                session.quit()
            with self.assertRaisesRegex(pop3.Refused, r"^\[AUTH\] "):
                self.log_in(user, response, -60)
            with self.log_in(user, response, 600) as session:
                self.assertEqual(session.stat()[0], 1)
                session.quit()
