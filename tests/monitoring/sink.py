"""A submission server that takes whatever it is sent, but for recipients that say otherwise."""

import socketserver
import threading

import daemons


class _Session(socketserver.StreamRequestHandler):
    """Any login is good; refused@… is refused, and with lost@… the connection is lost."""

    def handle(self):
        self._say("220 sink.example ESMTP")
        recipient = ""
        while line := self.rfile.readline().decode(errors="replace").strip():
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                self._say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 10000000\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                self._say("235 2.7.0 welcome")
            elif verb == "DATA":
                self._say("354 go on")
                while self.rfile.readline() not in (b".\r\n", b""):
                    pass
                if "lost@" in recipient:
                    return
                self._say("554 5.7.1 not this one" if "refused@" in recipient else "250 2.0.0 taken")
            elif verb == "QUIT":
                self._say("221 2.0.0 bye")
                return
            else:
                recipient = line if verb == "RCPT" else recipient
                self._say("250 2.0.0 fine")

    def _say(self, text):
        self.wfile.write(text.encode() + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that leaves in mid-sentence is what some of the load does."""


class Sink:
    def __init__(self):
        self._server = _Server((daemons.HOST, 0), _Session)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
