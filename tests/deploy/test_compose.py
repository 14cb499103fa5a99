"""The compose file for a look around, as far as it goes without its images: each file of it is what it should be."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import yaml

from tool import DEPLOY, POPGATE, ROOT, run

COMPOSE = DEPLOY / "compose"


class LookAround(unittest.TestCase):
    def setUp(self):
        self.services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]

    def test_what_is_mounted_is_there(self):
        for name, service in self.services.items():
            for volume in service.get("volumes", []):
                with self.subTest(name, volume=volume):
                    self.assertTrue((COMPOSE / volume.split(":")[0]).exists())

    def test_nothing_is_published_but_on_loopback(self):
        for name, service in self.services.items():
            for port in service.get("ports", []):
                with self.subTest(name):
                    self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_popgate_takes_its_settings(self):
        run(POPGATE, "check", "--config", COMPOSE / "popgate.toml")

    def test_dovecot_takes_its_settings(self):
        run("doveconf", "-n", "-c", COMPOSE / "dovecot.conf")

    def test_a_message_goes_in_and_comes_out(self):
        """By the two lines to paste, and the application; Dovecot and popgate as they are, but at other ports and without containers."""
        put, get = re.findall(r"^# +(curl .*?)(?: {2,}#.*)?$", (COMPOSE / "compose.yaml").read_text(), re.MULTILINE)
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name in ("", "mail"):
                (folder / name).mkdir(exist_ok=True)
                os.chown(folder / name, 1000, 1000)
            dovecot = folder / "dovecot.conf"
            dovecot.write_text((COMPOSE / "dovecot.conf").read_text().replace("/srv/mail", f"{folder}/mail") + AT_ANOTHER_PORT.format(folder=folder))
            popgate = folder / "popgate.toml"
            text = (COMPOSE / "popgate.toml").read_text()
            popgate.write_text(text.replace("dovecot:143", "127.0.0.1:29143").replace("0.0.0.0:1110", "127.0.0.1:29110"))
            self.start("dovecot", "-F", "-c", dovecot)
            self.start(POPGATE, "serve", "--config", popgate, env={**os.environ, "POPGATE__ADMIN__LISTEN": "off"})
            retries = "curl --silent --show-error --max-time 20 --retry 20 --retry-delay 1 --retry-connrefused"
            run(*put.replace("curl", retries).replace(":1143/", ":29143/").split(), cwd=ROOT)
            said = run(*get.replace("curl", retries).replace(":1110/", ":29110/").split()).stdout
            self.assertIn("Subject: ", said)
            application = self.services["application"]
            mounted = {there: COMPOSE / here for here, there in (volume.split(":")[:2] for volume in application["volumes"])}
            program = [mounted.get(word, word) for word in application["command"][1:]]
            here = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": "29110"}
            application = self.start(sys.executable, *program, env={**os.environ, **application["environment"], **here}, stdout=subprocess.PIPE, text=True)
            self.assertIn("ticket: ", application.stdout.readline())
            application.stdout.close()

    def start(self, *command, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL, **options)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        return process

    def test_prometheus_takes_its_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            for file in (COMPOSE / "prometheus.yml", DEPLOY / "prometheus/rules.yaml"):
                shutil.copy(file, folder)
            run("promtool", "check", "config", Path(folder) / "prometheus.yml")


AT_ANOTHER_PORT = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
listen = 127.0.0.1
service imap-login {{
  inet_listener imap {{
    port = 29143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
