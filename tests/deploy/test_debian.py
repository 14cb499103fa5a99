"""The Debian package: what lintian says of it, what is in it, and that it is the same each time."""

import tempfile
import time
import unittest
from pathlib import Path

from tool import DEPLOY, POPGATE, output, run

# What is as it is meant.
TAGS = [
    # There is no address yet.
    "bogus-mail-host",
    "bogus-mail-host-in-debian-changelog",
    # It is no package of Debian's, so that no bug of Debian's asks for it.
    "initial-upload-closes-no-bugs",
    # A program that is linked statically looks like a library.
    "shared-library-lacks-prerequisites",
    "statically-linked-binary",
]


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.package = Path(output(DEPLOY / "debian/build", POPGATE, cls.folder).strip())

    def test_lintian(self):
        run("lintian", "--no-cfg", "--allow-root", "--fail-on=error,warning", f"--suppress-tags={','.join(TAGS)}", self.package)

    def test_units_and_manuals_are_in_it(self):
        files = output("dpkg-deb", "--contents", self.package)
        for unit in (DEPLOY / "systemd").glob("*.s[eo]*"):
            if unit.suffix in (".service", ".socket"):
                self.assertIn(f"/usr/lib/systemd/system/{unit.name}\n", files)
        self.assertIn("/usr/share/man/man1/popgate.1.gz\n", files)
        self.assertIn("/usr/share/man/man1/popgate-serve.1.gz\n", files)

    def test_scripts_can_be_read(self):
        for script in ("postinst", "prerm", "postrm"):
            run("sh", "-n", DEPLOY / "debian" / script)

    def test_the_same_program_gives_the_same_package(self):
        time.sleep(1.1)
        with tempfile.TemporaryDirectory() as folder:
            again = Path(output(DEPLOY / "debian/build", POPGATE, folder).strip())
            self.assertEqual(again.read_bytes(), self.package.read_bytes())

    def test_the_settings_are_accepted(self):
        run(POPGATE, "check", "--config", DEPLOY / "debian/popgate.toml")
