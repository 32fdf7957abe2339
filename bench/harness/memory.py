"""Memory that is fast to allocate, so that copies to tmpfs measure copying."""

import contextlib
import ctypes
import os
import sys

FALLOC_FL_KEEP_SIZE_AND_PUNCH_HOLE = 1 | 2
KEPT_BYTES = 4 << 10
BLOCK_BYTES = 512 << 10


def require_available(gib):
    """Ends the recipe if the machine has not so much memory to spare."""
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":", 1) for line in file)
    available = int(fields["MemAvailable"].split()[0]) / (1 << 20)
    if available < gib:
        sys.exit(f"{gib:.1f} GiB of memory are needed, {available:.1f} are available")


@contextlib.contextmanager
def warm(path, gib):
    """Keeps so much free memory fast to allocate while the block runs, by means of a file on tmpfs.

    A virtual machine with free page reporting gives freed blocks of 2 MiB back to its host, and the
    next writer of such a page pays a fault of the host (seconds per GiB), by chance for one
    contender and not the other. This touches the memory through a file and frees all but one page
    in 512 KiB: what is free is then smaller than what is reported, stays with the machine, and is
    handed out first. No setting of the kernel is changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    size = int(gib * 1024) << 20
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            os.write(file, block)
        for offset in range(0, size, BLOCK_BYTES):
            hole = (offset + KEPT_BYTES, BLOCK_BYTES - KEPT_BYTES)
            if libc.fallocate(file, FALLOC_FL_KEEP_SIZE_AND_PUNCH_HOLE, *hole):
                raise OSError(ctypes.get_errno(), "fallocate")
        yield
    finally:
        os.close(file)
        os.unlink(path)
