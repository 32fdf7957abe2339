#!/usr/bin/env python3
"""A path of so many Mbit/s and milliseconds (both ways together) to a local port: distant_proxy.py PORT MBITS MS

Says its own port in the first line of standard output, and after each connection a line with the bytes of each
direction and the share of the path that the larger was while it came."""

import queue
import socket
import sys
import threading
import time

CHUNK = 64 << 10
# What a router on the way holds beside what is on the line.
BUFFER = 4 << 20


class Direction:
    """One direction of a connection: what is read leaves it after the time that the line takes."""

    def __init__(self, source, target, rate, delay):
        self.source, self.target, self.rate, self.delay = source, target, rate, delay
        self.line = queue.Queue()
        # Bytes that have room on the line; pieces may be small, so they do not count.
        self.room, self.changed = int(rate * delay) + BUFFER, threading.Condition()
        self.bytes, self.first, self.last = 0, None, 0.0
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._write)]
        for thread in self.threads:
            thread.start()

    def _read(self):
        free = time.monotonic()
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.room > 0)
                data = self.source.recv(CHUNK)
                with self.changed:
                    self.room -= len(data)
                free = max(free, time.monotonic()) + len(data) / self.rate
                self.line.put((free + self.delay, data))
                if not data:
                    return
        except OSError:
            self.line.put((0, b""))

    def _write(self):
        try:
            while True:
                due, data = self.line.get()
                pause = due - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                if not data:
                    break
                self.target.sendall(data)
                with self.changed:
                    self.room += len(data)
                    self.changed.notify()
                self.bytes += len(data)
                # Without the beginning, in which the windows open.
                if self.bytes > self.rate * self.delay * 4:
                    self.first = self.first or (time.monotonic(), self.bytes)
                    self.last = time.monotonic()
            self.target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def share(self):
        """The share of the line's rate that was used."""
        if not self.first or self.last <= self.first[0]:
            return 0
        return (self.bytes - self.first[1]) / (self.last - self.first[0]) / self.rate


def serve(near, port, rate, delay):
    far = socket.create_connection(("127.0.0.1", port))
    for one in (near, far):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    both = [Direction(near, far, rate, delay), Direction(far, near, rate, delay)]
    for direction in both:
        for thread in direction.threads:
            thread.join()
    share = max(both, key=lambda direction: direction.bytes).share()
    print(*(direction.bytes for direction in both), f"{share:.3f}", flush=True)


def main():
    port, mbits, milliseconds = (int(text) for text in sys.argv[1:])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        near, _ = listener.accept()
        arguments = (near, port, mbits * 1e6 / 8, milliseconds / 2000)
        threading.Thread(target=serve, args=arguments, daemon=True).start()


main()
