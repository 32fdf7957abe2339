"""Leaving nothing behind: folders, processes, and signals that end a recipe."""

import contextlib
import ctypes
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent():
    """Runs in the child: should even kill -9 end the recipe, its server ends too."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn_server(argv, **options):
    """Starts a process that a Ctrl-C in the terminal does not reach before its recipe does."""
    return subprocess.Popen(argv, start_new_session=True, preexec_fn=_end_with_parent, **options)


def stop(process, seconds=20):
    """Ends a process that this program started, and waits for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()


def end_cleanly_on_signals():
    """Makes SIGTERM and SIGHUP run the `finally` blocks, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))


@contextlib.contextmanager
def scratch_folder():
    """A folder in memory that is gone afterwards."""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="legatus-bench-", dir=parent) as folder:
        # The peers' servers become other users and must be able to enter.
        Path(folder).chmod(0o755)
        yield Path(folder)
