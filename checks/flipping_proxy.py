#!/usr/bin/env python3
"""A TCP proxy that is cut off at random moments.

    flipping_proxy.py TARGET_HOST TARGET_PORT [--flips N] [--up SECONDS] [--down SECONDS] [--seed N]

Prints the port it listens on. It carries connections for a random time (on average --up seconds, but
at least until some bytes have passed), then resets all of them and takes no others for a random time
(on average --down seconds); so often as told, and is an ordinary proxy then. What it has read and not
passed on is lost, in both directions. The number of flips so far is kept in the file --count.
"""

import argparse
import asyncio
import random
import socket
import struct


class Proxy:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.writers = set()
        self.passed = asyncio.Event()
        self.flips = 0

    async def connection(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self.options.host, self.options.port
            )
        except OSError:
            writer.close()
            return
        pair = {writer, far_writer}
        self.writers |= pair
        try:
            await asyncio.gather(
                self.pump(reader, far_writer), self.pump(far_reader, writer)
            )
        except OSError:
            pass
        finally:
            self.writers -= pair
            for end in pair:
                end.close()

    async def pump(self, reader, writer):
        while data := await reader.read(1 << 16):
            writer.write(data)
            self.passed.set()
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def cut(self):
        for writer in list(self.writers):
            # Closing resets then, and what waits to be sent is dropped.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def run(self):
        server = await asyncio.start_server(
            self.connection, "127.0.0.1", 0, limit=1 << 16
        )
        port = server.sockets[0].getsockname()[1]
        print(port, flush=True)
        while self.options.flips is None or self.flips < self.options.flips:
            self.passed.clear()
            await self.passed.wait()
            await asyncio.sleep(self.random.expovariate(1 / self.options.up))
            server.close()
            self.cut()
            self.flips += 1
            if self.options.count:
                with open(self.options.count, "w", encoding="ascii") as file:
                    print(self.flips, file=file)
            await asyncio.sleep(self.random.expovariate(1 / self.options.down))
            server = await asyncio.start_server(
                self.connection, "127.0.0.1", port, limit=1 << 16
            )
        await asyncio.Event().wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--flips", type=int)
    parser.add_argument("--up", type=float, default=0.15)
    parser.add_argument("--down", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--count")
    asyncio.run(Proxy(parser.parse_args()).run())


main()
