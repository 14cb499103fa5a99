"""The compose file for a look around, as far as it goes without its images: each file of it is what it should be."""

import shutil
import tempfile
import unittest
from pathlib import Path

import yaml

from tool import DEPLOY, POPGATE, run

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

    def test_prometheus_takes_its_settings(self):
        with tempfile.TemporaryDirectory() as folder:
            for file in (COMPOSE / "prometheus.yml", DEPLOY / "prometheus/rules.yaml"):
                shutil.copy(file, folder)
            run("promtool", "check", "config", Path(folder) / "prometheus.yml")
