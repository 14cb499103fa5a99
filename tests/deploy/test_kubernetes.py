"""The manifests: that they are valid, that kustomize and Helm give the same, and what they promise."""

import copy
import functools
import json
import re
import shutil
import tempfile
import unittest
from pathlib import Path

import kubernetes_validate

from pod_security import offences
from tool import DEPLOY, HELM, POPGATE, ROOT, helm_template, kustomize, objects, output, run

KUBERNETES = DEPLOY / "kubernetes"
CHART = KUBERNETES / "helm/popgate"
HERE = Path(__file__).resolve().parent
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
# Of the values that are off by default.
EVERYTHING = "--set=monitoring.enabled=true,dashboards.enabled=true,certificate.enabled=true,autoscaling.enabled=true"
# Kinds that come with an operator; no version of Kubernetes knows them.
OF_OPERATORS = {"Certificate", "PodMonitor", "PrometheusRule"}
WHOLE = {
    "gateway": lambda: kustomize("overlays/gateway"),
    "everything": lambda: kustomize(HERE / "everything"),
    "sidecars": lambda: kustomize(HERE / "sidecars"),
    "office": lambda: kustomize("examples/office"),
    "ticket-system": lambda: kustomize("examples/ticket-system"),
    "chart": lambda: helm_template(),
    "chart with everything": lambda: helm_template(EVERYTHING),
}


@functools.cache
def whole(name):
    """The objects, which are not to be changed."""
    return WHOLE[name]()


class Manifests(unittest.TestCase):
    """Each set of objects that somebody could apply."""

    def test_each_is_valid_in_each_version_of_kubernetes(self):
        for name in WHOLE:
            for item in whole(name):
                if item["kind"] in OF_OPERATORS:
                    continue
                for version in VERSIONS:
                    with self.subTest(name, kind=item["kind"], version=version):
                        kubernetes_validate.validate(item, version, strict=True)

    def test_each_pod_keeps_to_the_restricted_standard(self):
        for name in WHOLE:
            if name == "sidecars":
                continue
            for item in whole(name):
                with self.subTest(name, kind=item["kind"]):
                    self.assertEqual(offences(item), [])

    def test_a_pod_that_does_not_is_found(self):
        deployment = of_kind(whole("gateway"), "Deployment")
        for change in [
            lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"),
            lambda pod: pod["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
            lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
            lambda pod: pod["containers"][0]["ports"][0].update(hostPort=110),
            lambda pod: pod["securityContext"].pop("seccompProfile"),
            lambda pod: pod["securityContext"].update(runAsUser=0),
            lambda pod: pod["securityContext"].pop("runAsNonRoot"),
            lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
            lambda pod: pod.update(hostNetwork=True),
        ]:
            changed = copy.deepcopy(deployment)
            change(changed["spec"]["template"]["spec"])
            self.assertEqual(len(offences(changed)), 1, offences(changed))

    def test_configs_are_accepted_by_popgate(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            certificate(folder)
            for name in WHOLE:
                for item in whole(name):
                    text = item.get("data", {}).get("popgate.toml")
                    if text:
                        file = folder / "popgate.toml"
                        file.write_text(text.replace("/etc/popgate-tls/", f"{folder}/"))
                        with self.subTest(name):
                            run(POPGATE, "check", "--config", file)

    def test_ports_of_the_config_are_those_of_the_pod(self):
        """Whoever changes the one has to change the other."""
        gateway = whole("gateway")
        container = pod_of(gateway)["containers"][0]
        config = of_kind(gateway, "ConfigMap")["data"]["popgate.toml"] + json.dumps(container["env"])
        self.assertEqual(
            sorted(int(port) for port in re.findall(r'"0\.0\.0\.0:(\d+)"', config)),
            sorted(port["containerPort"] for port in container["ports"]),
        )

    def test_the_version_of_the_image_is_that_of_popgate(self):
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        for name in WHOLE:
            for item in whole(name):
                for image in re.findall(r'"image": "popgate:([^"]*)"', json.dumps(item)):
                    with self.subTest(name):
                        self.assertEqual(image, version)
        chart = (CHART / "Chart.yaml").read_text()
        self.assertIn(f"\nappVersion: {version}\n", chart)
        self.assertIn(f'image.version="{version}"', (DEPLOY / "Containerfile").read_text())

    def test_rules_and_dashboards_are_current(self):
        run(KUBERNETES / "render", "--check")


class Office(unittest.TestCase):
    def test_scanners_that_cannot_log_in(self):
        """As the comments of the example say: the lines that are told are taken in, and nothing else is missing."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            shutil.copytree(KUBERNETES, folder / "kubernetes")
            office = folder / "kubernetes/examples/office"
            for name in ("popgate.toml", "kustomization.yaml"):
                text = (office / name).read_text()
                taken_in = re.sub(r"^( *)#(?! |$)", r"\1", text, flags=re.MULTILINE)
                self.assertNotEqual(taken_in, text)
                (office / name).write_text(taken_in)
            items = kustomize(office)
            pod = pod_of(items)
            mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            self.assertEqual(volumes[mounts["/etc/popgate-scanner"]]["secret"]["secretName"], "scanner")
            self.assertIn("/etc/popgate", mounts)
            config = of_kind(items, "ConfigMap")["data"]["popgate.toml"]
            self.assertIn('"/etc/popgate-scanner/password"', config)
            certificate(folder)
            (folder / "password").write_text("secret\n")
            file = folder / "popgate.toml"
            file.write_text(config.replace("/etc/popgate-tls/", f"{folder}/").replace("/etc/popgate-scanner/", f"{folder}/"))
            run(POPGATE, "check", "--config", file)


class Gateway(unittest.TestCase):
    """kustomize and the chart say the same."""

    def test_the_chart_is_the_overlay(self):
        self.assert_same(whole("gateway"), whole("chart"))

    def test_the_chart_with_everything_is_the_overlay_with_all_components(self):
        self.assert_same(whole("everything"), whole("chart with everything"))

    def assert_same(self, of_kustomize, of_helm):
        of_kustomize, of_helm = normal(of_kustomize), normal(of_helm)
        self.assertEqual(sorted(of_kustomize), sorted(of_helm))
        self.maxDiff = None
        for name, item in of_kustomize.items():
            with self.subTest(name):
                self.assertEqual(item, of_helm[name])


class Chart(unittest.TestCase):
    """What helm itself says, and what values.schema.json refuses."""

    def test_helm_lint(self):
        run(HELM, "lint", "--strict", CHART)

    def test_wrong_values_are_refused(self):
        for value in ["replicas=0", "replica=3", "service.type=Cluster", "image.digest=latest", "config=", "tls.secretName=", "adminListen=off"]:
            with self.subTest(value):
                refused = run(HELM, "template", "popgate", CHART, "--set", value, accept=(1,))
                self.assertIn("values don't meet the specifications of the schema", refused.stderr)

    def test_two_releases_in_a_namespace_do_not_share_names_or_pods(self):
        other = objects(output(HELM, "template", "second", CHART))
        self.assertEqual({item["metadata"]["name"] for item in other} - {"second-popgate-check"}, {"second-popgate"})
        one, two = (of_kind(release, "Service")["spec"]["selector"] for release in (whole("chart"), other))
        self.assertNotEqual(one, two)

    def test_a_change_of_the_config_starts_new_pods(self):
        config = "[upstream.default]\nprovider = 'gmail'\n"
        changed = helm_template("--set-literal", f"config={config}")
        self.assertNotEqual(
            *(of_kind(release, "Deployment")["spec"]["template"]["metadata"]["annotations"] for release in (whole("chart"), changed))
        )

    def test_notes_name_what_is_missing(self):
        said = output(HELM, "install", "popgate", CHART, "--dry-run=client")
        self.assertIn("It has no upstream yet", said)
        self.assertIn("create secret tls popgate-tls", said)
        self.assertNotIn("WARNING", said)
        said = output(HELM, "install", "popgate", CHART, "--dry-run=client", "--set-literal",
                      "config=[pop3]\nlisten = ['0.0.0.0:1110']\n[upstream.default]\nprovider = 'gmail'\n")
        self.assertEqual(re.findall(r"WARNING: .* port (\d+)", said), ["1995", "1587", "1465"])

    def test_files_that_the_config_names_can_be_mounted(self):
        said = objects(output(HELM, "template", "popgate", CHART, "--set-json", 'extraVolumes=[{"name":"ca","configMap":{"name":"ca"}}]',
                              "--set-json", 'extraVolumeMounts=[{"name":"ca","mountPath":"/etc/ca"}]'))
        check = of_kind(said, "Pod")["spec"]
        for pod in (pod_of(said), check):
            self.assertIn({"name": "ca", "configMap": {"name": "ca"}}, pod["volumes"])
            self.assertIn({"name": "ca", "mountPath": "/etc/ca"}, pod["containers"][0]["volumeMounts"])
            self.assertIn("config", [volume["name"] for volume in pod["volumes"]])


class Sidecar(unittest.TestCase):
    """The component, on a Deployment that wants it and on one that does not."""

    def setUp(self):
        self.pods = {
            item["metadata"]["name"]: item["spec"]["template"]["spec"]
            for item in whole("sidecars")
            if item["kind"] in ("Deployment", "StatefulSet")
        }

    def test_a_stateful_set_gets_it_as_well(self):
        kinds = {item["metadata"]["name"]: item["kind"] for item in whole("sidecars")}
        self.assertEqual(kinds["wants-and-keeps"], "StatefulSet")
        (container,) = self.pods["wants-and-keeps"]["initContainers"]
        self.assertEqual((container["name"], container["restartPolicy"]), ("popgate", "Always"))
        self.assertIn("popgate-tmp", [volume["name"] for volume in self.pods["wants-and-keeps"]["volumes"]])

    def test_its_monitoring_has_the_rules(self):
        rules = of_kind(whole("sidecars"), "PrometheusRule")
        self.assertEqual(rules["spec"], of_kind(whole("everything"), "PrometheusRule")["spec"])

    def test_it_is_native_and_first(self):
        containers = self.pods["wants"]["initContainers"]
        self.assertEqual([container["name"] for container in containers], ["popgate", "reads-mail-early"])
        self.assertEqual(containers[0]["restartPolicy"], "Always")

    def test_the_application_keeps_what_it_had(self):
        pod = self.pods["wants"]
        self.assertEqual([container["name"] for container in pod["containers"]], ["application"])
        self.assertIn("data", [volume["name"] for volume in pod["volumes"]])
        self.assertNotIn("securityContext", pod)

    def test_who_did_not_ask_gets_nothing(self):
        self.assertNotIn("initContainers", self.pods["does-not"])
        self.assertNotIn("volumes", self.pods["does-not"])

    def test_mail_is_on_loopback_only(self):
        for name in ["components/sidecar/popgate.toml", "examples/ticket-system/popgate.toml"]:
            text = (KUBERNETES / name).read_text()
            self.assertEqual(set(re.findall(r'listen.*"(.*):\d+"', text)), {"127.0.0.1"})


def certificate(folder):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=mail.example.com", "-keyout", folder / "tls.key", "-out", folder / "tls.crt")


def of_kind(items, kind):
    (item,) = (item for item in items if item["kind"] == kind)
    return item


def pod_of(items):
    return of_kind(items, "Deployment")["spec"]["template"]["spec"]


def normal(items):
    """By kind and name, without what only the one of the two tools adds.

    That is for Helm its own labels and the checksum that starts new pods, and the tests; for kustomize the
    suffix of the ConfigMap's name that does the same.
    """
    items = [item for item in items if "helm.sh/hook" not in item["metadata"].get("annotations", {})]
    (config,) = (item["metadata"]["name"] for item in items if "popgate.toml" in item.get("data", {}))
    text = json.dumps(items).replace(f'"{config}"', '"popgate"')
    return {f"{item['kind']} {item['metadata']['name']}": without(item) for item in json.loads(text)}


def without(node):
    of_helm = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "checksum/config"}
    if isinstance(node, list):
        return [without(child) for child in node]
    if not isinstance(node, dict):
        return node
    kept = {key: without(child) for key, child in node.items() if key not in of_helm}
    return {key: child for key, child in kept.items() if not (key in ("annotations", "labels") and child == {})}
