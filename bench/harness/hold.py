"""Holds many idle connections to a Legatus server, as clients with nothing to say do.

    hold.py ADDRESS PKI-FOLDER COUNT [--describe]

Each connection is mutual TLS 1.3 with ALPN h2 and speaks HTTP/2 (RFC 9113): preface, SETTINGS, and
answers to what a server asks of an idle client (SETTINGS, PING), so that no keep-alive ends it.
With --describe each makes one gRPC call first. Prints `holding N`, waits for the end of standard
input, and then prints `lost N`: how many connections the server had closed meanwhile.
"""

import argparse
import asyncio
import contextlib
import resource
import ssl
import subprocess
import sys
from pathlib import Path

from . import cleanup

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4
STREAM = 1
# Handshakes at a time; the server limits those that are not finished.
TOGETHER = 16
READY_SECONDS = 120


def frame(kind, flags=0, stream=0, payload=b""):
    """One HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def literal(name, value):
    """A header field, neither indexed nor Huffman coded (RFC 7541, 6.2.2)."""
    text = [part.encode() for part in (name, value)]
    return b"\x00" + b"".join(bytes([len(part)]) + part for part in text)


def describe(address):
    """The frames of one call of Legatus.Describe."""
    # Indexed fields of the static table: ":method: POST" and ":scheme: https".
    fields = b"\x83\x87"
    fields += literal(":path", "/legatus.v1.Legatus/Describe") + literal(":authority", address)
    fields += literal("content-type", "application/grpc") + literal("te", "trailers")
    empty_message = b"\x00" + bytes(4)
    call = frame(HEADERS, END_HEADERS, STREAM, fields)
    return call + frame(DATA, END_STREAM, STREAM, empty_message)


class Holder:
    """All connections of this process."""

    def __init__(self, address, pki, call_first):
        self.address = address
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)
        self.call_first = call_first
        self.lost = 0
        self.context = ssl.create_default_context(cafile=pki / "ca.crt")
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.load_cert_chain(pki / "bench.crt", pki / "bench.key")
        self.context.set_alpn_protocols(["h2"])
        self.gate = asyncio.Semaphore(TOGETHER)

    async def hold(self, count):
        """Opens the connections, tells when all are ready, and keeps them until told to end."""
        ready = [asyncio.get_running_loop().create_future() for _ in range(count)]
        tasks = [asyncio.create_task(self.connection(future)) for future in ready]
        await asyncio.wait_for(asyncio.gather(*ready), READY_SECONDS)
        print(f"holding {count}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(f"lost {self.lost}", flush=True)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def connection(self, ready):
        """One connection until it ends; `ready` once the server has shown that it speaks."""
        writer = None
        try:
            async with self.gate:
                # The default limit of the reader's buffer costs nothing while it is empty.
                reader, writer = await asyncio.open_connection(
                    self.host, self.port, ssl=self.context
                )
                writer.write(PREFACE + frame(SETTINGS))
                if self.call_first:
                    writer.write(describe(self.address))
                await self.answer(reader, writer, ready, until_ready=True)
            await self.answer(reader, writer, ready, until_ready=False)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.lost += 1
            if not ready.done():
                ready.set_exception(error)
        finally:
            if writer:
                writer.transport.abort()

    async def answer(self, reader, writer, ready, until_ready):
        """Reads frames and answers those that want it."""
        got_data = False
        while not (until_ready and ready.done()):
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind in (SETTINGS, PING) and not flags & ACK:
                writer.write(frame(kind, ACK, payload=payload if kind == PING else b""))
            got_data |= kind == DATA
            wanted = SETTINGS if not self.call_first else HEADERS
            done = kind == SETTINGS or (got_data and flags & END_STREAM)
            if kind == wanted and done and not ready.done():
                ready.set_result(None)


@contextlib.contextmanager
def held(server, count, call_first=True):
    """Connections held by a process of their own while the block runs -> function that ends them
    and tells how many were lost."""
    argv = [sys.executable, "-B", "-m", "harness.hold", server.address, server.pki, str(count)]
    process = cleanup.spawn_server(
        argv + ["--describe"] * call_first,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent,
        text=True,
    )

    def release():
        process.stdin.close()
        return int(process.stdout.readline().split()[1])

    try:
        if process.stdout.readline() != f"holding {count}\n":
            log = (server.folder / "server.log").read_text(errors="replace")
            sys.exit(f"{count} connections could not be held; the server says:\n{log[-2000:]}")
        yield release
    finally:
        cleanup.stop(process)


def main():
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("pki", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--describe", action="store_true")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run():
        await Holder(options.address, options.pki, options.describe).hold(options.count)

    asyncio.run(run())


if __name__ == "__main__":
    main()
