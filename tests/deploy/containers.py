"""podman and buildah with a store of their own, and the pods and images of the tests."""

import atexit
import functools
import os
import resource
import shutil
import tempfile
import uuid
from pathlib import Path

from tool import DEPLOY, POPGATE, output, run, skip

IMAGE = "localhost/popgate:test"


@functools.cache
def environment():
    """Keeps images and containers out of the machine's own store, and the limits within what this machine permits."""
    folder = Path(tempfile.mkdtemp(prefix="popgate-deploy-"))
    atexit.register(clean, folder)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    # podman asks for more files than a container's host may permit; runc runs on hosts with both kinds of cgroups.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = ":".join(str(min(limit, 1024) if limit > 0 else 1024) for limit in files)
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={files}", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
    }


def clean(folder):
    podman("pod", "rm", "--all", "--force", "--time", "0", accept=range(256))
    podman("rm", "--all", "--force", "--time", "0", accept=range(256))
    run("umount", folder / "graph/overlay", accept=range(256))
    shutil.rmtree(folder, ignore_errors=True)


def podman(*arguments, **options):
    return run("podman", *arguments, env=environment(), **options)


def build(program, image):
    return output(DEPLOY / "container/build", program, image, env=environment()).strip()


@functools.cache
def builds_images():
    """Whether this machine can, by an image without anything of ours, or else what it says."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "root").mkdir()
        (Path(folder) / "root/file").touch()
        try:
            image_of_folder(folder, "localhost/empty:test")
        except AssertionError as failed:
            return str(failed).strip().splitlines()[-1]
    return ""


@functools.cache
def image():
    """The image around the release that is tested."""
    reason = builds_images()
    if reason:
        skip(f"this machine cannot build an image, so that none was built: {reason}")
    build(POPGATE, IMAGE)
    return IMAGE


@functools.cache
def starts_containers():
    """Whether this machine can, or else what it says."""
    outcome = podman("run", "--rm", "--network=none", image(), "--version", accept=range(256))
    return "" if outcome.returncode == 0 else outcome.stderr.strip().splitlines()[-1]


def need_containers():
    reason = starts_containers()
    if reason:
        skip(f"this machine cannot start a container, so that none was run: {reason}")


def image_of_folder(folder, name):
    """An image with what is in a folder, and nothing else."""
    (Path(folder) / "Containerfile").write_text("FROM scratch\nCOPY root /\n")
    run("buildah", "build", "--quiet", "--isolation=chroot", f"--tag={name}", folder, env=environment())
    return name


def mounted(name, use):
    """Calls `use` with the folder in which the files of an image can be seen and changed."""
    container = output("buildah", "from", "--pull=never", f"--name=look-{uuid.uuid4().hex}", name, env=environment()).strip()
    try:
        return use(Path(output("buildah", "mount", container, env=environment()).strip()))
    finally:
        run("buildah", "rm", container, env=environment())
