#!/usr/bin/env python3
"""Types into an interactive session and checks that all that comes back is exact.

    interactive_client.py PROGRAM HOST COUNTER FLIPS

Runs a shell on HOST by `PROGRAM shell` on a terminal of its own and types numbered lines, of which the remote shell
makes others, until the file COUNTER holds at least FLIPS. Every line must come back once, in order and
unchanged; only what the client itself says of its connection is left out.
"""

import hashlib
import os
import pty
import re
import select
import sys
import time

program, host, counter, flips = sys.argv[1:5]
REPORT = re.compile(rb"legatus: [^\n]*\r?\n")


def flipped():
    try:
        with open(counter, encoding="ascii") as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


def expected(number):
    """What the shell makes of a line: the number, and a text whose length differs."""
    return b"line %d %s" % (number, b"x" * (number % 50))


class Session:
    def __init__(self):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execv(program, [program, "shell", host, "-t", "--linger", "10m", "--", "sh"])
        self.buffer = b""

    def type(self, text):
        while text:
            _, writable, _ = select.select([], [self.descriptor], [], 60)
            if not writable:
                sys.exit("the client takes no keys")
            text = text[os.write(self.descriptor, text) :]

    def read_until(self, text, seconds=120):
        end = time.monotonic() + seconds
        while text not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                sys.exit(f"never came: {text!r}, but {self.buffer[-500:]!r}")
            try:
                chunk = os.read(self.descriptor, 1 << 16)
            except OSError:
                chunk = b""
            if not chunk:
                sys.exit(f"the session has ended: {self.buffer[-500:]!r}")
            # It may stand in the middle of a line.
            self.buffer = REPORT.sub(b"", self.buffer + chunk)
        before, _, self.buffer = self.buffer.partition(text)
        return before


session = Session()
time.sleep(0.2)
session.type(b"PS1=; PS2=; stty -echo -onlcr; echo be''gun\n")
session.read_until(b"begun\n")
digest, wanted, number = hashlib.sha256(), hashlib.sha256(), 0
begun = flipped()
while flipped() < begun + int(flips):
    lines = b""
    first = number
    for _ in range(20):
        lines += b"echo 'li''ne %d %s'\n" % (number, b"x" * (number % 50))
        wanted.update(expected(number) + b"\n")
        number += 1
    session.type(lines.replace(b"'li''ne", b"'li'\"ne\"'"))
    session.type(b"echo en''d%d\n" % first)
    came = session.read_until(b"end%d\n" % first)
    digest.update(came)
    if digest.digest() != wanted.digest():
        sys.exit(f"not what it should be, from line {first} on: {came!r}")
session.type(b"exit 7\n")
status = None
end = time.monotonic() + 60
while status is None and time.monotonic() < end:
    # What the client still says must not keep it.
    if select.select([session.descriptor], [], [], 0.1)[0]:
        try:
            os.read(session.descriptor, 1 << 16)
        except OSError:
            pass
    done, code = os.waitpid(session.pid, os.WNOHANG)
    status = os.waitstatus_to_exitcode(code) if done else None
if status != 7:
    sys.exit(f"exit status {status} instead of 7")
print(number, "lines")
