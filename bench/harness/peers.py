"""The peers' servers (peers.sh) and the command lines of their clients."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from . import cleanup

SCRIPT = Path(__file__).resolve().parent.parent / "peers.sh"
# Set by `bench/run`, so that all recipes meet the same servers: a file with the lines of peers.sh.
VARIABLE = "LEGATUS_BENCH_PEERS"


class Peers:
    """Command lines for running peers."""

    def __init__(self, lines):
        values = dict(line.split("=", 1) for line in lines)
        self.sshd_pid = int(values["SSHD_PID"])
        self.dropbear_pid = int(values["DROPBEAR_PID"])
        self._ssh_config = values["SSH_CONFIG"]
        self._dropbear_key = values["DROPBEAR_KEY"]
        self._dropbear_port = values["DROPBEAR_PORT"]

    def ssh(self, *arguments, options=()):
        """OpenSSH's client with its defaults, but for the given options."""
        return ["ssh", "-F", self._ssh_config, *options, "127.0.0.1", *arguments]

    def scp(self, source, target):
        """OpenSSH's copy; the remote side is written `:PATH`."""
        paths = [
            f"127.0.0.1{path}" if str(path).startswith(":") else str(path)
            for path in (source, target)
        ]
        return ["scp", "-q", "-F", self._ssh_config, *paths]

    def dbclient(self, *arguments):
        """Dropbear's client with its defaults."""
        identity = ["-y", "-y", "-i", self._dropbear_key, "-p", self._dropbear_port]
        return ["dbclient", *identity, "root@127.0.0.1", *arguments]


def _start(folder):
    """Starts peers.sh -> (process, its lines). It ends when its standard input does."""
    process = cleanup.spawn_server(
        [SCRIPT, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        if line == "ready\n":
            return process, lines
        lines.append(line.strip())
    cleanup.stop(process)
    sys.exit("the peers did not start")


@contextlib.contextmanager
def servers(folder):
    """The peers that `bench/run` started, else own ones for the length of a `with` block."""
    if VARIABLE in os.environ:
        yield Peers(Path(os.environ[VARIABLE]).read_text().splitlines())
        return
    folder = folder / "peers"
    folder.mkdir()
    process, lines = _start(folder)
    (folder / "lines").write_text("\n".join(lines))
    try:
        yield Peers(lines)
    finally:
        cleanup.stop(process)
