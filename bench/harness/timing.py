"""Running contenders in turn, with wall time and CPU of both ends."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Callable, Optional

from . import processes


@dataclass
class Sample:
    """One run of one contender."""

    seconds: float
    client_cpu: float = 0.0


@dataclass
class Contender:
    """Somebody who does the work: a callable for one run, and the server whose CPU counts."""

    name: str
    run: Callable[[], Sample]
    server: Optional[int] = None
    samples: list = field(default_factory=list)
    # CPU seconds of one run: the server process, and what it started and reaped.
    server_cpu: tuple = (0.0, 0.0)

    def seconds(self):
        """Wall times of all runs."""
        return [sample.seconds for sample in self.samples]

    def client_cpu(self):
        """Mean CPU seconds of the client in one run."""
        return sum(sample.client_cpu for sample in self.samples) / max(1, len(self.samples))


def fail(argv, status, stderr):
    """Ends the recipe: a contender that fails has no figure."""
    line = " ".join(str(word) for word in argv)
    sys.exit(f"status {status} from: {line}\n{stderr[-2000:]}")


def run(argv, stdout=subprocess.DEVNULL, env=None):
    """Runs a command to its end -> Sample. Any failure ends the recipe."""
    with tempfile.TemporaryFile() as stderr:
        begin = time.perf_counter()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            fail(argv, process.returncode, stderr.read().decode(errors="replace"))
    return Sample(seconds, usage.ru_utime + usage.ru_stime)


def interleave(contenders, rounds, warmup=1):
    """Runs all in turn, round after round, so that drift of the machine meets all alike."""
    for number in range(warmup + rounds):
        if number == warmup:
            before = [_server_cpu(contender) for contender in contenders]
        for contender in contenders:
            sample = contender.run()
            if number >= warmup:
                contender.samples.append(sample)
    for contender, (own, reaped) in zip(contenders, before):
        now_own, now_reaped = _server_cpu(contender)
        contender.server_cpu = ((now_own - own) / rounds, (now_reaped - reaped) / rounds)


def _server_cpu(contender):
    if contender.server is None:
        return 0.0, 0.0
    # Only what was reaped is counted.
    processes.wait_until_childless(contender.server)
    return processes.cpu(contender.server)
