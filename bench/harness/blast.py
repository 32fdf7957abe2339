"""A server that sends or takes as many bytes as a client wants, and that client.

Both cost as little as they can, for what is between them is measured: a sender's bytes go from a file
in memory to the socket as a web server's do (sendfile), a taker has the kernel drop what it counts."""

import os
import socket
import sys
import threading

CHUNK = 1 << 20
READY = b"!"


def _serve(connection):
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wish = b""
        while not wish.endswith(b"\n"):
            piece = connection.recv(64)
            if not piece:
                # Somebody only tried whether the port answers.
                return
            wish += piece
        direction, count = wish.decode().split()
        # The client says nothing more before it is answered.
        connection.sendall(READY)
        if direction == "down":
            send(connection, int(count))
        else:
            take(connection, int(count))
            connection.sendall(READY)


def send(connection, count):
    """Sends so many bytes."""
    with os.fdopen(os.memfd_create("blast"), "wb+", buffering=0) as block:
        block.write(os.urandom(CHUNK))
        while count > 0:
            part = min(CHUNK, count)
            count -= os.sendfile(connection.fileno(), block.fileno(), 0, part)


def take(connection, count):
    """Takes so many bytes; ends the program if fewer come."""
    # The kernel writes nothing there: tcp(7), MSG_TRUNC.
    buffer = bytearray(CHUNK)
    while count > 0:
        taken = connection.recv_into(buffer, min(CHUNK, count), socket.MSG_TRUNC)
        if not taken:
            sys.exit(f"the connection ended {count} bytes too early")
        count -= taken


def transfer(port, direction, count):
    """Has so many bytes come down or go up."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(f"{direction} {count}\n".encode())
        take(connection, len(READY))
        if direction == "down":
            take(connection, count)
        else:
            send(connection, count)
            take(connection, len(READY))


def main():
    """Serves on a free loopback port, which it prints."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
