"""The ticket system of the examples, really run: two containers in a pod that share nothing but loopback.

podman plays what kustomize makes. It is not Kubernetes, so that some things are changed before; `for_podman` has them
all. The upstream is a Dovecot, which runs in the pod's network, where both would look for a provider.
"""

import json
import os
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

import yaml

import containers
from containers import podman
from tool import TOOLS, kustomize, output, run

LOGIN = "support@example.com"
PASSWORD = "abcdefghijklmnop"
IMAP_PORT = 1143
SUBJECTS = ["the printer is on fire", "it is out now"]


class TicketSystem(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        containers.need_containers()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        image = containers.image_of_folder(TOOLS / "application", "localhost/python:test")
        pod = for_podman(kustomize("examples/ticket-system"), image)
        file = cls.folder / "pod.yaml"
        file.write_text(yaml.safe_dump_all(pod))
        cls.addClassCleanup(podman, "pod", "rm", "--all", "--force", "--time=0")
        podman("play", "kube", "--network=none", file)
        cls.process = podman("inspect", "--format={{.State.Pid}}", "ticket-system-popgate").stdout.strip()
        cls.dovecot = start_dovecot(cls.folder, cls.process)
        cls.addClassCleanup(cls.dovecot.wait)
        cls.addClassCleanup(cls.dovecot.terminate)

    def test_1_mail_is_read_through_the_other_container(self):
        for _ in range(60):
            said = podman("logs", "ticket-system-ticket-system").stdout
            if all(f"ticket: {subject}" in said for subject in SUBJECTS):
                return
            time.sleep(0.5)
        self.fail(f"the ticket system says:\n{said}\npopgate says:\n{podman('logs', 'ticket-system-popgate').stderr}")

    def test_2_popgate_says_the_session_in_json(self):
        for _ in range(20):
            lines = podman("logs", "ticket-system-popgate").stderr.splitlines()
            if any(LOGIN in json.dumps(json.loads(line)) for line in lines):
                self.assertNotIn(PASSWORD, "\n".join(lines))
                return
            time.sleep(0.5)
        self.fail("\n".join(lines))

    def test_3_it_is_ready_on_the_port_of_the_probes(self):
        said = self.inside("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "http://127.0.0.1:9110/readyz")
        self.assertEqual(said, "200")
        podman("exec", "ticket-system-popgate", "/popgate", "healthcheck")

    def test_4_both_are_held_in(self):
        for name in ("popgate", "ticket-system"):
            with self.subTest(name):
                process = podman("inspect", "--format={{.State.Pid}}", f"ticket-system-{name}").stdout.strip()
                status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
                self.assertEqual(set(status["CapEff"] + status["CapBnd"]), {"0"})
                self.assertEqual(status["NoNewPrivs"], "1")
                self.assertNotIn("0", status["Uid"].split())
                root = next(
                    line.split() for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines() if line.split()[4] == "/"
                )
                self.assertIn("ro", root[5].split(","))

    def test_5_nothing_listens_but_on_loopback_and_for_the_probes(self):
        said = self.inside("ss", "--tcp", "--listening", "--numeric", "--no-header")
        addresses = {line.split()[3] for line in said.splitlines()}
        self.assertEqual(addresses, {"127.0.0.1:1110", "127.0.0.1:1587", "0.0.0.0:9110", f"127.0.0.1:{IMAP_PORT}"})

    def test_6_it_ends_by_itself(self):
        podman("stop", "--time=25", "ticket-system-popgate")
        self.assertEqual(podman("inspect", "--format={{.State.ExitCode}}", "ticket-system-popgate").stdout.strip(), "0")

    def inside(self, *command):
        return output("nsenter", f"--target={self.process}", "--net", *command)


def for_podman(items, application_image):
    """The pod of the Deployment, and what it reads.

    Changed, as podman 4.3 has no such thing: a native sidecar becomes the first container, the probes are the test's
    own, ports are not announced, and the Secret's two values are put where they are asked for. Changed for the test: the images, the
    upstream, and how often the ticket system polls.
    """
    items = [item for item in items if item["kind"] in ("ConfigMap", "Deployment")]
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    pod = template["spec"]
    (sidecar,) = pod.pop("initContainers")
    assert sidecar.pop("restartPolicy") == "Always"
    for key in ("startupProbe", "livenessProbe", "readinessProbe", "ports"):
        del sidecar[key]
    sidecar["image"] = containers.image()
    (application,) = pod["containers"]
    application["image"] = application_image
    secret = {"login": LOGIN, "password": PASSWORD}
    for variable in application["env"]:
        source = variable.pop("valueFrom", None)
        if source:
            variable["value"] = secret[source["secretKeyRef"]["key"]]
    application["env"].append({"name": "MAIL_SECONDS", "value": "1"})
    pod["containers"] = [sidecar, application]
    configs = [item for item in items if item["kind"] == "ConfigMap"]
    for config in configs:
        if "popgate.toml" in config["data"]:
            text = config["data"]["popgate.toml"]
            here = f'imap = "imap://127.0.0.1:{IMAP_PORT}"\nsmtp = "smtp://127.0.0.1:2525"'
            assert 'provider = "gmail"' in text and 'login_delay = "10s"' in text
            config["data"]["popgate.toml"] = text.replace('provider = "gmail"', here).replace('login_delay = "10s"', "")
    name = deployment["metadata"]["name"]
    return [*configs, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": template["metadata"]["labels"]}, "spec": pod}]


def start_dovecot(folder, process):
    """An IMAP server with two messages, in the network of this process."""
    mail = folder / "mail"
    for part in ("cur", "new", "tmp"):
        (mail / part).mkdir(parents=True)
    for number, subject in enumerate(SUBJECTS):
        (mail / "new" / f"{number}.test").write_text(f"From: somebody@example.com\nSubject: {subject}\n\nHelp.\n")
    for path in [folder, mail, *mail.rglob("*")]:
        os.chown(path, *MAIL_USER)
    folder.chmod(0o755)
    config = folder / "dovecot.conf"
    config.write_text(DOVECOT.format(folder=folder, port=IMAP_PORT, password=PASSWORD, user=MAIL_USER[0], group=MAIL_USER[1]))
    return subprocess.Popen(
        ["nsenter", f"--target={process}", "--net", "dovecot", "-F", "-c", config], stderr=subprocess.DEVNULL
    )


# Nobody's, but not root's, which Dovecot refuses.
MAIL_USER = (20065, 20065)

DOVECOT = """\
protocols = imap
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{folder}/mail
first_valid_uid = 1000
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={folder}
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
