#!/usr/bin/env python3
"""Drives `legatus shell -t` on a terminal of its own, as a person with much to paste or a slow screen.

    flooding_client.py PROGRAM HOST paste BYTES FILE
        Pastes so many bytes of lines into `cat > FILE` there; FILE must hold exactly these.
    flooding_client.py PROGRAM HOST flood MILLISECONDS
        Runs `yes` there and reads next to nothing of it for seconds: no process of the call may grow
        meanwhile, and Ctrl-C must end it within the time.
"""

import hashlib
import os
import pty
import select
import sys
import time

program, host, way, amount = sys.argv[1:5]
GROWTH_KIB = 16 << 10


def start(line):
    """A client that runs a line on a terminal of the server -> its process, our side of the terminal."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.execv(program, [program, "shell", host, "-t", "--", "sh", "-c", line])
    return pid, descriptor


def read_until(descriptor, text, seconds=60):
    """What comes before a text."""
    seen = b""
    end = time.monotonic() + seconds
    while text not in seen:
        left = end - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            sys.exit(f"never came: {text!r}, but {seen[-200:]!r}")
        seen += os.read(descriptor, 1 << 16)
    return seen.partition(text)[0]


def paste():
    path = sys.argv[5]
    _, descriptor = start(f"stty -echo; echo ready; cat > {path}; echo whole")
    read_until(descriptor, b"ready")
    line = b"%07d " + b"x" * 71 + b"\n"
    text = b"".join(line % number for number in range(int(amount) // 80))
    at = 0
    while at < len(text):
        # Whatever the client says meanwhile must not keep it.
        readable, writable, _ = select.select([descriptor], [descriptor], [], 60)
        if readable:
            os.read(descriptor, 1 << 16)
        if not readable and not writable:
            sys.exit(f"the client takes no more keys after {at} bytes")
        if writable:
            at += os.write(descriptor, text[at : at + 1024])
    os.write(descriptor, b"\x04")
    read_until(descriptor, b"whole", 120)
    with open(path, "rb") as file:
        came = file.read()
    if hashlib.sha256(came).digest() != hashlib.sha256(text).digest():
        sys.exit(f"{len(came)} bytes arrived, or others, instead of {len(text)}")


def status(pid, field):
    """A field of a process's status; `None` when it has gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == field:
                    return value.split()[0]
    except OSError:
        pass
    return None


def parent(pid):
    return int(status(pid, "PPid"))


def flood():
    client, descriptor = start("echo begun $$ .; exec yes")
    command = int(read_until(descriptor, b" .").split()[-1])
    holder = parent(command)
    pids = {"client": client, "holder": holder, "server": parent(holder)}
    time.sleep(1)
    before = {name: int(status(pid, "VmRSS")) for name, pid in pids.items()}
    for _ in range(30):
        os.read(descriptor, 100)
        time.sleep(0.1)
    for name, pid in pids.items():
        grown = int(status(pid, "VmRSS")) - before[name]
        if grown > GROWTH_KIB:
            sys.exit(f"the {name} has grown by {grown} KiB")
    begun = time.monotonic()
    os.write(descriptor, b"\x03")
    while status(command, "State") not in (None, "Z"):
        if time.monotonic() - begun > 20:
            sys.exit("Ctrl-C does nothing")
        time.sleep(0.001)
    took = (time.monotonic() - begun) * 1000
    print(f"{took:.1f} ms")
    if took > float(amount):
        sys.exit(f"Ctrl-C took {took:.1f} ms")


{"paste": paste, "flood": flood}[way]()
