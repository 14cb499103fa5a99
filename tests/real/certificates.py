"""A certificate authority of our own, and the certificate for localhost that all servers of the run show."""

import functools
import os
import ssl
import subprocess

import daemons

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_LEAF_EXTENSIONS = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


# More than what popgate's rules call expiring.
DAYS = "60"


class Authority:
    """An authority, its certificate in `ca_path`, and what it issued, in `certificate_path` and `key_path`."""

    def __init__(self, name):
        folder = os.path.join(daemons.FOLDER, name)
        os.mkdir(folder)
        self.ca_path = os.path.join(folder, "ca.pem")
        self.certificate_path = os.path.join(folder, "localhost.pem")
        self.key_path = os.path.join(folder, "localhost.key")
        ca_key = os.path.join(folder, "ca.key")
        request = os.path.join(folder, "localhost.csr")
        extensions = os.path.join(folder, "extensions")
        with open(extensions, "w", encoding="ascii") as file:
            file.write(_LEAF_EXTENSIONS)
        _openssl("req", "-x509", *_KEY, "-days", DAYS, "-subj", f"/CN={name}", "-keyout", ca_key, "-out", self.ca_path)
        _openssl("req", "-new", *_KEY, "-subj", "/CN=localhost", "-keyout", self.key_path, "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-days", DAYS, "-extfile", extensions, "-CA", self.ca_path,
            "-CAkey", ca_key, "-CAcreateserial", "-out", self.certificate_path,
        )  # fmt: skip
        # Cyrus reads it as its own user.
        os.chmod(self.key_path, 0o644)

    def client_context(self):
        """What a client needs that trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.ca_path)


def _openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@functools.cache
def upstream():
    """Issues what the IMAP servers show."""
    return Authority("upstream-ca")


@functools.cache
def own():
    """Issues what popgate shows; another one, so that trust in one leg cannot stand in for the other."""
    return Authority("own-ca")
