#!/usr/bin/env python3
"""Load on a forwarded port.

    forward_load.py target                                    a server that says a word to whoever connects
    forward_load.py halves PORT                               each direction of a connection ends alone
    forward_load.py stuck PORT [judged]                       one of eight connections takes nothing
    forward_load.py short PORT CLIENT SERVER SECONDS RATE [judged]
                                                              short ones; CLIENT and SERVER are process ids

`target`: prints its port. To `short` it says a word; to `halves` it says how much came, after the end of it.
`stuck`: seven connections read 40 MB each, alone and then beside one that asked for as much and reads
nothing; all must get everything. Judged: not in more than 1.25 times the time.
`short`: RATE connections a second for so long; afterwards neither process has more descriptors, and
their memory has not grown by more than 8 MiB over what it was after a tenth. Judged: no fewer than 98 % of
RATE were carried in each second, on average over five.
"""

import asyncio
import os
import socket
import sys
import threading
import time

REQUEST = b"GET /%s HTTP/1.0\r\n\r\n"
MEMORY = 8 << 20
WORD = b"hello\n"
LARGE = 40 << 20
HALVES = b"count\n"


def count(connection):
    """Says how many bytes come before the end, after the end."""
    total = 0
    with connection:
        while piece := connection.recv(1 << 18):
            total += len(piece)
        connection.sendall(b"%d" % total)


def target():
    """One thread, as it has to be quicker than what is measured."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        if connection.recv(len(HALVES)) == HALVES:
            threading.Thread(target=count, args=(connection,), daemon=True).start()
            continue
        connection.sendall(WORD)
        connection.close()


def halves(port):
    """The other side answers what has ended, and ends it itself."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(HALVES)
        connection.sendall(bytes(LARGE))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(100), b""))
    if answer != b"%d" % LARGE:
        sys.exit(f"the answer to the end is {answer!r}")


async def fetch(port, name):
    """Reads a file to its end -> its length with headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % name)
    length = 0
    while chunk := await reader.read(1 << 18):
        length += len(chunk)
    writer.close()
    return length


async def seven(port):
    """Seven connections at the same time -> seconds."""
    begin = time.monotonic()
    lengths = await asyncio.gather(*(fetch(port, b"large") for _ in range(7)))
    if min(lengths) < LARGE:
        sys.exit(f"a connection was cut off: {lengths}")
    return time.monotonic() - begin


async def stuck(port, judged):
    """The time of seven with and without a stuck one."""
    rounds = 5 if judged else 1
    alone = min([await seven(port) for _ in range(rounds)])
    # A small buffer: it is full at once.
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(REQUEST % b"large")
    await writer.drain()
    writer.transport.pause_reading()
    beside = min([await seven(port) for _ in range(rounds)])
    print(f"seven alone {alone:.2f} s, beside a stuck one {beside:.2f} s")
    if judged and beside > 1.25 * alone:
        sys.exit("a stuck connection slows the others")
    writer.transport.abort()


def descriptors(pid):
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def settled(pids, before):
    """Waits until the processes have no more descriptors than before, at most 10 s -> their numbers."""
    deadline = time.monotonic() + 10
    while True:
        now = [descriptors(pid) for pid in pids]
        if all(a <= b + 2 for a, b in zip(now, before)) or time.monotonic() > deadline:
            return now
        await asyncio.sleep(0.1)


async def greet(port):
    """One short connection -> whether it brought the word."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        try:
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.sock_sendall(connection, WORD)
            heard = b""
            while piece := await loop.sock_recv(connection, 100):
                heard += piece
        except OSError:
            return False
    return heard == WORD


async def short(port, pids, seconds, rate, judged):
    """Many short connections, at an even rate."""
    await asyncio.gather(*(greet(port) for _ in range(50)))
    before = await settled(pids, [descriptors(pid) for pid in pids])
    memories, running, failures, ends = None, set(), 0, []
    # As many as a listener's clients may have open; the rest wait here.
    gate = asyncio.Semaphore(100)

    async def one():
        nonlocal failures
        async with gate:
            if not await greet(port):
                failures += 1
            ends.append(time.monotonic())

    begin = time.monotonic()
    total = seconds * rate
    for number in range(total):
        due = begin + number / rate
        if (late := due - time.monotonic()) > 0:
            await asyncio.sleep(late)
        task = asyncio.create_task(one())
        running.add(task)
        task.add_done_callback(running.discard)
        if len(running) > 500:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        if number == total // 10:
            memories = [memory(pid) for pid in pids]
    await asyncio.gather(*running)
    took = ends[-1] - begin
    after = await settled(pids, before)
    grown = [memory(pid) - was for pid, was in zip(pids, memories)]
    # Whatever waits in between shows in one of these.
    parts = [sum(begin + at <= end < begin + at + 5 for end in ends) / 5 for at in range(0, seconds - 4, 5)]
    print(f"{len(ends)} connections in {took:.1f} s ({len(ends) / took:.0f}/s), {failures} failed")
    print(f"at least {min(parts):.0f}/s over 5 s; descriptors {before} -> {after}")
    print(f"memory grown by {[b >> 10 for b in grown]} KiB")
    if failures:
        sys.exit("connections failed")
    if any(a > b + 2 for a, b in zip(after, before)):
        sys.exit("descriptors leak")
    if max(grown) > MEMORY:
        sys.exit("memory leaks")
    if judged and min(parts) < 0.98 * rate:
        sys.exit("the rate was not reached")


def main():
    """Runs what the first word says."""
    what, *rest = sys.argv[1:]
    judged = "judged" in rest
    numbers = [int(text) for text in rest if text != "judged"]
    match what:
        case "target":
            target()
        case "halves":
            halves(*numbers)
        case "stuck":
            asyncio.run(stuck(*numbers, judged))
        case "short":
            port, client, server, seconds, rate = numbers
            asyncio.run(short(port, (client, server), seconds, rate, judged))


main()
