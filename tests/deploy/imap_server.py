"""Runs a command beside an IMAP server with TLS on 127.0.0.1:9930 that says BYE: in a network of its own.

Usage: imap_server.py FOLDER COMMAND…    FOLDER has tls.crt and tls.key
"""

import socket
import ssl
import subprocess
import sys
import threading


def serve(context, listener):
    while True:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as client:
                client.sendall(b"* BYE the test has begun and ended\r\n")
        except OSError:
            pass


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(f"{sys.argv[1]}/tls.crt", f"{sys.argv[1]}/tls.key")
threading.Thread(target=serve, args=(tls, socket.create_server(("127.0.0.1", 9930))), daemon=True).start()
sys.exit(subprocess.run(sys.argv[2:]).returncode)
