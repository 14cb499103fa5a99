"""What an auditor of TLS has to say about popgate's listeners."""

import json
import os
import subprocess

import certificates
import daemons
import world

# About the test's own authority, which nobody has heard of and which nobody can ask.
_OF_THE_AUTHORITY = ("cert_", "DNS_CAA", "OCSP", "certificate_transparency")


class Audit(world.TestCase):
    def test_testssl(self):
        """testssl.sh finds nothing; without its simulation of hundreds of clients, which takes minutes."""
        findings = os.path.join(daemons.FOLDER, "testssl.json")
        subprocess.run(
            [
                "testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", "one", "--jsonfile", findings,
                "--protocols", "--std", "--server-preference", "--server-defaults", "--vulnerable",
                "--add-ca", certificates.own().ca_path, f"localhost:{self.popgate.tls_port}",
            ],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
        )  # fmt: skip
        with open(findings, encoding="utf-8") as file:
            found = json.load(file)
        self.assertIn("TLS1_3", [finding["id"] for finding in found], "it did not get as far")
        complaints = [
            (finding["id"], finding["finding"])
            for finding in found
            if finding["severity"] not in ("OK", "INFO", "DEBUG")
            and not finding["id"].startswith(_OF_THE_AUTHORITY)
        ]
        self.assertEqual(complaints, [])
