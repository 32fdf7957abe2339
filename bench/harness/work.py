"""A contender that copies: what it does, what goes over the wire meanwhile, and whether the copy is one."""

import subprocess
import sys
from pathlib import Path

from . import timing


def loopback():
    """Bytes that have gone over the loopback interface."""
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


class Work:
    """One contender's command: prepares the target, and compares it with the source afterwards."""

    def __init__(self, argv, prepare, source, target):
        self.argv, self.prepare, self.source, self.target = argv, prepare, source, target
        self.wire = []

    def __call__(self):
        self.prepare()
        before = loopback()
        sample = timing.run(self.argv)
        self.wire.append(loopback() - before)
        if self.source.is_file():
            same = not subprocess.run(["cmp", self.source, self.target]).returncode
        else:
            argv = ["rsync", "-anic", "--delete", f"{self.source}/", f"{self.target}/"]
            same = not subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
        if not same:
            sys.exit(f"source and target differ after: {self.argv}")
        return sample

    def sent(self):
        """Bytes on the loopback interface, the median of all runs."""
        return sorted(self.wire)[len(self.wire) // 2]
