"""What goes over the wire."""

from pathlib import Path


def loopback():
    """Bytes that have gone over the loopback interface."""
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())
