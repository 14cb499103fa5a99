"""The image: what is in it, that it is the same each time, and that popgate does its work in it."""

import json
import re
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import containers
from containers import podman
from tool import DEPLOY, POPGATE, PYTHON, ROOT, output, run

SIZE_MAX = 15_000_000
HERE = Path(__file__).resolve().parent


class Containerfile(unittest.TestCase):
    """As far as it can be looked at without the base images, which are elsewhere."""

    def test_hadolint(self):
        run(PYTHON / "hadolint", DEPLOY / "Containerfile")

    def test_what_is_copied_is_there(self):
        text = (DEPLOY / "Containerfile").read_text()
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
            for source in sources.split():
                self.assertTrue((ROOT / source).exists(), source)


class Image(unittest.TestCase):
    """Built around the release, by the last stage of the Containerfile."""

    @classmethod
    def setUpClass(cls):
        cls.image = containers.image()
        (cls.about,) = json.loads(podman("image", "inspect", cls.image).stdout)

    def test_the_program_needs_no_library(self):
        self.assertNotIn("NEEDED", output("readelf", "--dynamic", POPGATE))

    def test_it_has_popgate_and_certificates_and_nothing_else(self):
        def files(root):
            return {
                f"/{path.relative_to(root)}": stat.filemode(path.lstat().st_mode)
                for path in root.rglob("*")
                if not path.is_dir()
            }

        self.assertEqual(
            containers.mounted(self.image, files),
            {
                "/popgate": "-rwxr-xr-x",
                "/etc/passwd": "-rw-r--r--",
                "/etc/group": "-rw-r--r--",
                "/etc/ssl/certs/ca-certificates.crt": "-rw-r--r--",
            },
        )

    def test_there_is_a_folder_for_temporary_files(self):
        mode = containers.mounted(self.image, lambda root: (root / "tmp").stat().st_mode)
        self.assertEqual(stat.filemode(mode), "drwxrwxrwt")

    def test_it_is_small(self):
        self.assertLess(self.about["Size"], SIZE_MAX)
        print(f"{self.about['Size']} octets", file=sys.stderr, end=" ")

    def test_it_does_not_run_as_root(self):
        self.assertEqual(self.about["Config"]["User"], "65532:65532")

    def test_it_says_what_it_is(self):
        labels = self.about["Config"]["Labels"]
        for label in ("title", "description", "version", "revision", "licenses"):
            self.assertTrue(labels[f"org.opencontainers.image.{label}"])
        self.assertEqual(set(labels), {label for label in labels if label.startswith("org.opencontainers.image.")})

    def test_the_same_program_gives_the_same_image(self):
        # In the next second, so that a time would show.
        time.sleep(1.1)
        again = containers.build(POPGATE, "localhost/popgate:again")
        digests = podman("image", "inspect", "--format={{.Digest}}", self.image, again).stdout.split()
        self.assertEqual(digests[0], digests[1])


class Names(unittest.TestCase):
    """Static programs find hosts by themselves; here with nothing but what the image has."""

    def test_names_of_the_hosts_file_and_of_the_dns(self):
        containers.image()

        def look(root):
            (root / "etc/hosts").write_text("127.0.0.1 by-file.example\n")
            (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
            return [
                run("unshare", "--net", sys.executable, HERE / "name_server.py", "by-dns.example", "chroot", root,
                    "/popgate", "check", "--online", accept=(3,),
                    env={"POPGATE__UPSTREAM__DEFAULT__IMAP": f"imaps://{host}:9", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}).stdout
                for host in ("by-file.example", "by-dns.example", "nowhere.example")
            ]

        by_file, by_dns, nowhere = containers.mounted(containers.IMAGE, look)
        self.assertIn("Connection refused", by_file)
        self.assertIn("Connection refused", by_dns)
        self.assertNotIn("Connection refused", nowhere)
        self.assertIn("upstream_unreachable", nowhere)

    def test_certificate_authorities_of_the_image_count(self):
        """Found where they are: with ours among them a server with our certificate is believed, without it not."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE",
                "-keyout", folder / "tls.key", "-out", folder / "tls.crt")

            def look(root):
                (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
                roots = root / "etc/ssl/certs/ca-certificates.crt"
                said = [self.check(root, folder)]
                roots.write_text(roots.read_text() + (folder / "tls.crt").read_text())
                return [*said, self.check(root, folder)]

            before, after = containers.mounted(containers.image(), look)
        self.assertIn("certificate", before)
        self.assertNotIn("certificate", after)
        self.assertIn("the test has begun", after)

    def check(self, root, folder):
        outcome = run("unshare", "--net", sys.executable, HERE / "imap_server.py", folder, "chroot", root, "/popgate",
                      "check", "--online", accept=range(256),
                      env={"POPGATE__UPSTREAM__DEFAULT__IMAP": "imaps://localhost:9930", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        return outcome.stdout + outcome.stderr


class Running(unittest.TestCase):
    """In a container, with a read-only root, no capabilities and nothing but loopback."""

    HARDENED = ("--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--memory=128m")

    def setUp(self):
        containers.need_containers()

    def test_settings_from_the_environment_are_enough(self):
        name = self.start(
            "--env=POPGATE__UPSTREAM__DEFAULT__IMAP=imaps://imap.example.com",
            "--env=POPGATE__UPSTREAM__DEFAULT__SMTP=smtps://smtp.example.com",
            containers.IMAGE,
        )
        self.assert_ready(name)
        podman("stop", "--time=20", name)
        self.assertEqual(podman("inspect", "--format={{.State.ExitCode}}", name).stdout.strip(), "0")

    def test_a_file_in_etc_popgate_is_read(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "popgate.toml"
            file.write_text("[admin]\nlisten = '127.0.0.1:9999'\n[upstream.default]\nprovider = 'gmail'\n")
            file.chmod(0o644)
            name = self.start(f"--volume={file}:/etc/popgate/popgate.toml:ro", containers.IMAGE)
            self.assert_ready(name)
            self.assertIn("127.0.0.1:9999", podman("logs", name).stderr)

    def test_the_demo_runs_in_it(self):
        name = self.start(containers.IMAGE, "demo")
        process = podman("inspect", "--format={{.State.Pid}}", name).stdout.strip()
        for _ in range(40):
            outcome = run("nsenter", f"--target={process}", "--net", "curl", "--silent", "pop3://127.0.0.1:2110/1",
                          "--user", "demo:demo", accept=range(256))
            if outcome.returncode == 0:
                break
            time.sleep(0.25)
        self.assertIn("Subject: ", outcome.stdout)

    def start(self, *arguments):
        name = podman("run", "--detach", *self.HARDENED, *arguments).stdout.strip()
        self.addCleanup(podman, "rm", "--force", "--time=0", name)
        return name

    def assert_ready(self, name):
        for _ in range(40):
            outcome = podman("exec", name, "/popgate", "healthcheck", accept=range(256))
            if outcome.returncode == 0:
                return
            time.sleep(0.25)
        self.fail(outcome.stderr + podman("logs", name).stderr)
