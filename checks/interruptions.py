#!/usr/bin/env python3
"""Copies that are killed or cut at a random moment, and then run again: interruptions.py LEGATUS PKI WORK RUNS

The client reaches the server through a proxy that counts, and that cuts the connection, kills the client or kills the
server after a random number of bytes. Afterwards nothing at a name may be incomplete; the same command again must make
all identical, leave nothing beside, and send at most 5 % more than was missing. In two of five runs the client looks for
its connection, which comes back at once or with a new server: then the one command makes all identical by itself."""

import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

LARGE, SMALL = 24 << 20, 200
HEADER, RECORD = 64, 24
ALLOWED = 1.05


class Proxy:
    """Passes one connection after the other on, and does something once so many bytes have passed."""

    def __init__(self, port, after, then):
        self.port, self.after, self.then = port, after, then
        self.passed, self.lock = 0, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.sockets = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                near.close()
                continue
            self.sockets += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source, target):
        try:
            while data := source.recv(16384):
                with self.lock:
                    self.passed += len(data)
                    due = self.then if self.after is not None and self.passed >= self.after else None
                    if due:
                        self.then = None
                if due:
                    due(self)
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Resets all connections, as a router that has forgotten them does."""
        for one in self.sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        self.cut()


def is_fork_server(pid):
    """Whether a process of the server is there to be forked, and not for a call."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "legatus-forks\n"
    except OSError:
        return False


class Server:
    """A server, which can be killed with all that it has started."""

    def __init__(self, legatus, pki, folder):
        argv = [legatus, "serve", "--listen", "127.0.0.1:0", "--state-dir", folder / "state"]
        argv += ["--cert", pki / "localhost.crt", "--key", pki / "localhost.key", "--ca", pki / "ca.crt"]
        if os.geteuid() == 0:
            argv += ["--run-as", "root"]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def kill(self):
        """kill -9 of the server; what it started ends because of that."""
        self.process.kill()
        self.process.wait()

    def settle(self):
        """Waits until what it has started for calls that are gone has ended."""
        children = Path(f"/proc/{self.process.pid}/task")
        for _ in range(1000):
            lists = [(task / "children").read_text() for task in children.iterdir()]
            if all(map(is_fork_server, "".join(lists).split())):
                return
            time.sleep(0.02)
        sys.exit("FAIL a child of the server does not end")

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def kept_of(source, target):
    """Bytes of complete files and of verified parts at the target; fails if a file at a name is incomplete."""
    kept = 0
    for path in source.rglob("*"):
        there = target / path.relative_to(source)
        if path.is_file() and there.exists():
            if there.read_bytes() != path.read_bytes():
                sys.exit(f"FAIL {there} is incomplete at its name")
            kept += path.stat().st_size
    for path in target.rglob(".*.legatus"):
        try:
            text = path.read_bytes() if path.stat().st_size < (1 << 20) else b""
        except FileNotFoundError:
            # What a killed server had started has just ended, and needs it no more.
            continue
        if text.startswith(b"legatus1") and len(text) >= HEADER + RECORD:
            last = HEADER + (len(text) - HEADER) // RECORD * RECORD
            kept += int.from_bytes(text[last - RECORD : last - RECORD + 8], "little")
    return kept


def differences(source, target):
    argv = ["rsync", "-anic", "--delete", f"{source}/", f"{target}/"]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout


def main():
    legatus, pki, work, runs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    source = work / "source"
    (source / "small").mkdir(parents=True)
    (source / "large").write_bytes(dice.randbytes(LARGE))
    for number in range(SMALL):
        (source / "small" / str(number)).write_bytes(dice.randbytes(dice.randrange(40000)))
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    names = ("CERT", "alice.crt"), ("KEY", "alice.key"), ("CA", "ca.crt")
    environment = {**os.environ, **{f"LEGATUS_{name}": str(pki / file) for name, file in names}}
    server, all_missing, all_sent, unfinished, went_on = Server(legatus, pki, work), 0, 0, 0, 0
    for run in range(runs):
        what, is_upload = ("cut", "client", "server", "cut", "server")[run % 5], dice.random() < 0.5
        goes_on = run % 5 > 2
        target = work / "target"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

        def command(proxy):
            there = f"127.0.0.1:{proxy.listener.getsockname()[1]}:"
            ends = (f"{source}/", f"{there}{target}/") if is_upload else (f"{there}{source}/", f"{target}/")
            return [legatus, "cp", "--no-fsync", "--reconnect", "60" if goes_on else "0", *ends]

        client = []

        def strike(proxy):
            nonlocal server
            if what == "cut":
                proxy.cut()
            elif what == "client":
                client[0].send_signal(signal.SIGKILL)
            else:
                server.kill()
                if goes_on:
                    server.process.stdout.close()
                    server = Server(legatus, pki, work)
                    proxy.port = server.port

        proxy = Proxy(server.port, dice.randrange(total), strike)
        said = work / "said"
        with said.open("wb") as stderr:
            client.append(subprocess.Popen(command(proxy), env=environment, stderr=stderr))
            status = client[0].wait()
        proxy.close()
        if goes_on:
            told = differences(source, target)
            if status or told or b"connected again" not in said.read_bytes():
                said = said.read_text(errors="replace")
                sys.exit(f"FAIL run {run} ({what}, seed {seed}) did not go on: {status}\n{told}{said}")
            went_on += 1
            continue
        unfinished += status != 0
        if what == "server":
            server.process.stdout.close()
            server = Server(legatus, pki, work)
        server.settle()
        missing = total - kept_of(source, target)
        proxy = Proxy(server.port, None, None)
        again = subprocess.run(command(proxy), env=environment, stderr=subprocess.PIPE, text=True)
        proxy.close()
        told = differences(source, target)
        if again.returncode or told:
            sys.exit(f"FAIL run {run} ({what}, seed {seed}): {again.returncode} {again.stderr}\n{told}")
        all_missing, all_sent = all_missing + missing, all_sent + proxy.passed
    server.stop()
    print(f"{runs} runs, {went_on} went on, {unfinished} interrupted: {all_missing} bytes were missing, {all_sent} sent again")
    if unfinished < (runs - went_on) // 2:
        sys.exit("FAIL most copies were not interrupted")
    if all_sent > ALLOWED * all_missing:
        sys.exit(f"FAIL {all_sent / all_missing:.3f} times what was missing, with seed {seed}")


main()
