"""Where things are, and how programs are run."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
TOOLS = Path(os.environ["POPGATE_DEPLOY_TOOLS"])
POPGATE = Path(os.environ["POPGATE_BIN"]).resolve()
PYTHON = TOOLS / "python/bin"
KUBECTL = TOOLS / "kubernetes/kubectl"
HELM = TOOLS / "kubernetes/helm"


def run(*command, accept=(0,), seconds=120, **options):
    """The outcome of a program that has to end with one of these codes, within this time."""
    options.setdefault("stdin", subprocess.DEVNULL)
    outcome = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=seconds, **options)
    if outcome.returncode not in accept:
        raise AssertionError(
            f"{' '.join(str(word) for word in command)}: exit code {outcome.returncode}\n{outcome.stdout}{outcome.stderr}"
        )
    return outcome


def output(*command, **options):
    return run(*command, **options).stdout


def skip(reason):
    """Says loudly what this machine cannot do, and leaves the test."""
    print(f"\nskipped: {reason}", file=sys.stderr, flush=True)
    raise unittest.SkipTest(reason)


def kustomize(folder):
    """The objects of a kustomization under deploy/kubernetes, or of another folder."""
    return objects(output(KUBECTL, "kustomize", DEPLOY / "kubernetes" / folder))


def helm_template(*arguments):
    return objects(output(HELM, "template", "popgate", DEPLOY / "kubernetes/helm/popgate", *arguments))


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]
