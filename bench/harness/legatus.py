"""A Legatus server with fresh certificates, and the command lines of its clients."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import cleanup

PROJECT = Path(__file__).resolve().parent.parent.parent
DEFAULT_BINARY = PROJECT / "target" / "release" / "legatus"


def find_binary(given):
    """The program to measure: the option, else $LEGATUS, else the release build."""
    binary = Path(given or os.environ.get("LEGATUS") or DEFAULT_BINARY).resolve()
    if not os.access(binary, os.X_OK):
        sys.exit(f"no program {binary}\nhint: cargo build --release, or --legatus FILE")
    return binary


class Legatus:
    """A running server on a loopback port of the kernel's choice."""

    def __init__(self, binary, folder, options=()):
        self.binary = binary
        self.folder = folder
        self.pki = folder / "pki"
        subprocess.run(
            [binary, "pki", "quickstart", "--dir", self.pki, "--server", "localhost"]
            + ["--san", "127.0.0.1", "--client", "bench"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.log = open(folder / "server.log", "wb")
        self.process = cleanup.spawn_server(
            self._serve_command(options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )
        self.address = self._read_address()
        self.pid = self.process.pid

    def _serve_command(self, options):
        run_as = ["--run-as", "root"] if os.geteuid() == 0 else []
        return [
            *[self.binary, "serve", "--listen", "127.0.0.1:0"],
            *["--cert", self.pki / "localhost.crt", "--key", self.pki / "localhost.key"],
            *["--ca", self.pki / "ca.crt", "--state-dir", self.folder / "state"],
            *run_as,
            *options,
        ]

    def _read_address(self):
        line = self.process.stdout.readline().decode()
        if not line.startswith("listening on "):
            log = (self.folder / "server.log").read_text(errors="replace")
            sys.exit(f"the server did not start: {line}{log[-2000:]}")
        return line.split()[-1]

    def client(self, *arguments):
        """Command line of a fresh client process."""
        identity = ["--cert", self.pki / "bench.crt", "--key", self.pki / "bench.key"]
        return [self.binary, *identity, "--ca", self.pki / "ca.crt", *arguments]

    def shell(self, *arguments):
        """Command line that calls the module `shell` on this server."""
        return self.client("shell", self.address, *arguments)

    def close(self):
        """Drains and ends the server."""
        cleanup.stop(self.process)
        self.log.close()


@contextlib.contextmanager
def server(binary, folder, options=()):
    """A server for the length of a `with` block."""
    folder = Path(tempfile.mkdtemp(prefix="legatus-", dir=folder))
    running = Legatus(binary, folder, options)
    try:
        yield running
    finally:
        running.close()
