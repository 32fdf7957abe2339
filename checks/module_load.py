#!/usr/bin/env python3
"""Many calls of external modules, on held connections.

    module_load.py calls ADDRESS PKI COUNT MODULE...     so many calls of each module, all modules at once
    module_load.py crashes ADDRESS PKI RATE SECONDS      so many crashing calls a second
    module_load.py echo ADDRESS PKI RATE SECONDS PROGRAM the time of a shell's echo, without crashes and with them

PKI is a folder with ca.crt and the certificate and key of `alice`. Ends with status 1 if a call did not
end as it should. `crashes` prints how many crashed; `echo` the medians in microseconds, without and with crashes,
and the crashes a second.
"""

import contextlib
import os
import pty
import select
import signal
import statistics
import subprocess
import sys
import threading
import time
import tty
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from harness.calls import DATA, Connection  # noqa: E402

# What modules send back, or what the plain command always sends.
MESSAGE, PLAIN = b"a message that comes back", b"hello from a command"
BLOCK = 25
PAUSE_SECONDS = 0.004
REPLY_SECONDS = 20


def connect(address, pki):
    return Connection(SimpleNamespace(address=address, pki=Path(pki), user="alice"))


def in_threads(functions):
    """Runs them at the same time; what went wrong in any of them ends the program."""
    failures = []

    def guarded(function):
        try:
            function()
        except (OSError, ValueError) as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit(f"{len(failures)} failed: {failures[0]}")


def calls(address, pki, count, *modules):
    def run(module):
        connection = connect(address, pki)
        for _ in range(int(count)):
            call = connection.open(module, MESSAGE, wait=False)
            told = connection.until(call, DATA)
            if not any(answer in told for answer in (MESSAGE, PLAIN)):
                raise ValueError(f"{module} answered {told!r}")
            connection.finish(call)
        connection.close()

    in_threads([lambda module=module: run(module) for module in modules])


def crashes(address, pki, rate, seconds):
    rate, seconds = int(rate), float(seconds)
    begin, lock = time.monotonic(), threading.Lock()
    state = SimpleNamespace(next=0, crashed=0)

    def run():
        connection = connect(address, pki)
        while True:
            with lock:
                number, state.next = state.next, state.next + 1
            if number >= rate * seconds:
                break
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
            answer = connection.open("crash", wait=False)
            told = connection.until(answer, DATA)
            if b"local/crash" not in told or b"SIGSEGV" not in told:
                raise ValueError(f"it did not crash: {told!r}")
            connection.finish(answer)
            with lock:
                state.crashed += 1
        connection.close()

    in_threads([run] * 4)
    print(state.crashed, f"{state.crashed / (time.monotonic() - begin):.1f}", flush=True)


class Shell:
    """A shell on a terminal of its own, in which `cat` sends back what is typed."""

    def __init__(self, program, address):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(OSError):
                os.execv(program, [program, "shell", "-t", address, "--", "sh", "-c", "echo READY; exec cat"])
            os._exit(127)
        tty.setraw(self.master)
        self.read_until(b"READY")
        self.drain()

    def read_until(self, wanted):
        got, end = b"", time.monotonic() + REPLY_SECONDS
        while wanted not in got:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                sys.exit(f"no {wanted!r} from the shell, but {got!r}")
            got += os.read(self.master, 4096)

    def drain(self):
        while select.select([self.master], [], [], 0.1)[0]:
            os.read(self.master, 4096)

    def block(self):
        """Seconds of each of some characters, typed after the one before has come back."""
        seconds = []
        for number in range(BLOCK):
            letter = b"abcdefghij"[number % 10 : number % 10 + 1]
            begin = time.perf_counter()
            os.write(self.master, letter)
            self.read_until(letter)
            seconds.append(time.perf_counter() - begin)
            time.sleep(PAUSE_SECONDS)
        os.write(self.master, b"\r")
        self.drain()
        return seconds

    def close(self):
        os.close(self.master)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGHUP)
        os.waitpid(self.pid, 0)


def echo(address, pki, rate, seconds, program):
    shell = Shell(program, address)

    def during(length):
        end, samples = time.monotonic() + length, []
        while time.monotonic() < end:
            samples += shell.block()
        return samples

    quiet_seconds = max(2.0, float(seconds) / 6)
    quiet = during(quiet_seconds)
    load = subprocess.Popen(
        [sys.executable, __file__, "crashes", address, pki, rate, seconds], stdout=subprocess.PIPE
    )
    # Its start, and what it still has to do at its end, are not those crashes.
    time.sleep(0.5)
    loaded = during(float(seconds) - 1)
    told = load.communicate(timeout=300)[0].decode().split()
    if load.returncode:
        sys.exit("crashing calls did not end as they should")
    quiet += during(quiet_seconds)
    shell.close()
    medians = (round(1e6 * statistics.median(samples)) for samples in (quiet, loaded))
    print(*medians, told[1], flush=True)


{"calls": calls, "crashes": crashes, "echo": echo}[sys.argv[1]](*sys.argv[2:])
