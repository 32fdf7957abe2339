"""rsync's daemon as a peer: plaintext, on 127.0.0.1."""

import contextlib
import socket
import subprocess
import sys
import time

from . import cleanup

ATTEMPTS = 5


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(process, port):
    for _ in range(100):
        if process.poll() is not None:
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def daemon(folder):
    """Runs a daemon whose module `all` is that folder -> the URL of the module and the pid."""
    configuration = folder / "rsyncd.conf"
    configuration.write_text(
        "use chroot = no\nuid = 0\ngid = 0\nreverse lookup = no\n"
        f"[all]\npath = {folder}\nread only = no\n"
    )
    for _ in range(ATTEMPTS):
        port = _free_port()
        argv = ["rsync", "--daemon", "--no-detach", f"--config={configuration}"]
        argv += ["--address=127.0.0.1", f"--port={port}"]
        process = cleanup.spawn_server(argv, stdin=subprocess.DEVNULL)
        if _answers(process, port):
            break
        cleanup.stop(process)
    else:
        sys.exit("rsync's daemon did not start")
    try:
        yield f"rsync://127.0.0.1:{port}/all", process.pid
    finally:
        cleanup.stop(process)
