#!/usr/bin/env python3
"""Load on a forwarded port.

    forward_load.py stuck PORT                                one of eight connections takes nothing
    forward_load.py short PORT CLIENT SERVER SECONDS RATE     short ones; CLIENT and SERVER are process ids

`stuck`: seven connections read 40 MB each, alone and then beside one that asked for as much and reads
nothing; all must get everything, and not in more than twice the time.
`short`: RATE connections a second for so long; afterwards neither process has more descriptors, and
their memory has not grown by more than 8 MiB over what it was after a tenth.
"""

import asyncio
import os
import sys
import time

REQUEST = b"GET /%s HTTP/1.0\r\n\r\n"
MEMORY = 8 << 20


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
    if min(lengths) < 40 << 20:
        sys.exit(f"a connection was cut off: {lengths}")
    return time.monotonic() - begin


async def stuck(port):
    """The time of seven with and without a stuck one."""
    await seven(port)
    alone = min([await seven(port) for _ in range(2)])
    # A small buffer: it is full at once.
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(REQUEST % b"large")
    await writer.drain()
    writer.transport.pause_reading()
    beside = min([await seven(port) for _ in range(2)])
    print(f"seven alone {alone:.2f} s, beside a stuck one {beside:.2f} s")
    if beside > 2 * alone + 0.5:
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


async def short(port, pids, seconds, rate):
    """Many short connections, at an even rate."""
    await asyncio.gather(*(fetch(port, b"small") for _ in range(50)))
    before = await settled(pids, [descriptors(pid) for pid in pids])
    memories, running, failures, done = None, set(), 0, 0
    gate = asyncio.Semaphore(100)

    async def one():
        nonlocal failures, done
        async with gate:
            try:
                if await fetch(port, b"small") < 6:
                    failures += 1
            except OSError:
                failures += 1
            done += 1

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
    took = time.monotonic() - begin
    after = await settled(pids, before)
    grown = [memory(pid) - was for pid, was in zip(pids, memories)]
    print(f"{done} connections in {took:.1f} s ({done / took:.0f}/s), {failures} failed")
    print(f"descriptors {before} -> {after}, memory grown by {[b >> 10 for b in grown]} KiB")
    if failures:
        sys.exit("connections failed")
    if any(a > b + 2 for a, b in zip(after, before)):
        sys.exit("descriptors leak")
    if max(grown) > MEMORY:
        sys.exit("memory leaks")


if sys.argv[1] == "stuck":
    asyncio.run(stuck(int(sys.argv[2])))
else:
    numbers = [int(text) for text in sys.argv[2:]]
    asyncio.run(short(numbers[0], numbers[1:3], numbers[3], numbers[4]))
