"""What a daemon costs: CPU and memory of all processes of its session, by /proc."""

import os

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# In /proc/PID/stat, counted behind the command's name.
_SESSION, _UTIME, _STIME, _CUTIME, _CSTIME = 3, 11, 12, 13, 14


def _stat(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as file:
        # The name is in parentheses and may itself have some.
        return file.read().rpartition(")")[2].split()


def _each(session):
    """The processes of a session, with their /proc/PID/stat."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(stat[_SESSION]) == session:
            yield int(pid), stat


def cpu_seconds(session):
    """User and system time so far, also of processes that have ended and were waited for."""
    ticks = sum(int(stat[field]) for _, stat in _each(session) for field in (_UTIME, _STIME, _CUTIME, _CSTIME))
    return ticks / _TICKS_PER_SECOND


def _sum_kib(pid, file_name, field):
    try:
        with open(f"/proc/{pid}/{file_name}", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(field)), 0)
    except (FileNotFoundError, ProcessLookupError):
        # It has ended.
        return 0


def pss_octets(session):
    """Resident memory now; what processes share is divided between them."""
    return 1024 * sum(_sum_kib(pid, "smaps_rollup", "Pss:") for pid, _ in _each(session))


class MemoryGrowth:
    """How much more memory than at the start a session's processes had resident at their peaks."""

    def __init__(self, session):
        self._session = session
        self._before = {}
        for pid, _ in _each(session):
            # Forgets the peak so far.
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
            self._before[pid] = _sum_kib(pid, "status", "VmRSS:")

    def octets(self):
        grown = (_sum_kib(pid, "status", "VmHWM:") - self._before.get(pid, 0) for pid, _ in _each(self._session))
        return 1024 * sum(kib for kib in grown if kib > 0)
