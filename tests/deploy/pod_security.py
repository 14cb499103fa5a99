"""The restricted Pod Security Standard of Kubernetes, as far as Linux pods go.

Each control is a line of https://kubernetes.io/docs/concepts/security/pod-security-standards/ (v1.37); it names
the baseline controls as well, which restricted contains.
"""

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}


def offences(item):
    """What is wrong with the pods of an object; nothing if it has none."""
    pod = item["spec"] if item["kind"] == "Pod" else item.get("spec", {}).get("template", {}).get("spec")
    if not pod or not pod.get("containers"):
        return []
    return [*of_pod(pod), *(offence for container in containers(pod) for offence in of_container(pod, container))]


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def of_pod(pod):
    for namespace in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(namespace):
            yield namespace
    for volume in pod.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']}"
    for sysctl in pod.get("securityContext", {}).get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"


def of_container(pod, container):
    name, context = container["name"], container.get("securityContext", {})
    of_both = {**pod.get("securityContext", {}), **context}
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield f"{name}: privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities are not dropped"
    if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities are added"
    if of_both.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot"
    if of_both.get("runAsUser") == 0:
        yield f"{name}: runAsUser"
    if of_both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name}: seccompProfile"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: hostPort"
