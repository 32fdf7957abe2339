"""What /proc tells about processes: CPU, memory, descriptors, children. Linux only."""

import os
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


def cpu(pid):
    """CPU seconds so far: (of the process itself, of its children that were waited for)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0, 0.0
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return (user + system) / TICKS_PER_SECOND, (children_user + children_system) / TICKS_PER_SECOND


def pss(pid):
    """Proportional memory of a process in KiB; 0 if it is gone."""
    return _memory(pid, ("Pss:",))


def own_memory(pid):
    """Memory of a process without mapped files, in KiB: unlike PSS it does not change when other
    processes run the same program."""
    return _memory(pid, ("Pss_Anon:", "Pss_Shmem:"))


def _memory(pid, fields):
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    words = [line.split() for line in lines]
    return sum(int(word[1]) for word in words if word[0] in fields)


def descriptors(pid):
    """Number of open file descriptors."""
    return len(os.listdir(PROC / str(pid) / "fd"))


def threads(pid):
    """Number of threads."""
    return len(os.listdir(PROC / str(pid) / "task"))


def children(pid):
    """Direct children, zombies included; without those that are only there to be forked."""
    found = []
    try:
        for task in os.listdir(PROC / str(pid) / "task"):
            text = (PROC / str(pid) / "task" / task / "children").read_text()
            found += [int(child) for child in text.split()]
    except OSError:
        pass
    return [child for child in found if not is_fork_server(child)]


def is_fork_server(pid):
    """Whether a process waits to be forked (`legatus-forks`), and does nothing else."""
    try:
        return (PROC / str(pid) / "comm").read_text() == "legatus-forks\n"
    except OSError:
        return False


def descendants(pid):
    """Children, their children, and so on."""
    found, waiting = [], [pid]
    while waiting:
        generation = children(waiting.pop())
        found += generation
        waiting += generation
    return found


def wait_until(condition, seconds):
    """Polls until `condition()` holds; tells whether it did within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def wait_until_childless(pid, seconds=10):
    """Waits until a server has ended and reaped what it started for its calls."""
    return wait_until(lambda: not children(pid), seconds)
