"""checkov on what kustomize and Helm give; which of its wishes are not fulfilled, and why."""

import os
import tempfile
import unittest
from pathlib import Path

from tool import DEPLOY, KUBECTL, TOOLS, output, run, skip

CHECKOV = TOOLS / "checkov"
NOT_FULFILLED = {
    "CKV_K8S_11": "a limit of CPU slows sessions down on a node that has time; the request is what matters",
    "CKV_K8S_15": "whether an image is pulled always is for its registry's owner to say",
    "CKV_K8S_21": "the namespace is named by whoever applies",
    "CKV_K8S_43": "there is no published image yet whose digest could be named",
}
# Of the application that stands for somebody's own.
OF_THE_EXAMPLE = {
    "CKV_K8S_8": "it ends when something is wrong",
    "CKV_K8S_9": "it serves nobody",
    "CKV_K8S_35": "applications take logins from the environment",
}


class Checkov(unittest.TestCase):
    def test_nothing_else_is_found(self):
        if not (CHECKOV / "of").exists():
            skip("checkov could not be installed in time, so that it did not look at the manifests")
        # Each start takes seconds.
        for names, wishes in {("overlays/gateway", "examples/office"): {}, ("examples/ticket-system",): OF_THE_EXAMPLE}.items():
            with self.subTest(names), tempfile.TemporaryDirectory() as folder:
                for name in names:
                    (Path(folder) / f"{Path(name).name}.yaml").write_text(output(KUBECTL, "kustomize", DEPLOY / "kubernetes" / name))
                skipped = ",".join([*NOT_FULFILLED, *wishes])
                run(CHECKOV / "bin/checkov", "--quiet", "--compact", "--skip-download", "--framework=kubernetes",
                    f"--skip-check={skipped}", f"--directory={folder}", seconds=150, env={**os.environ, "LOG_LEVEL": "ERROR"})
