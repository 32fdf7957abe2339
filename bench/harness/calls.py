"""Calls on one held connection, as a client in any language makes them (proto/legatus/v1).

Mutual TLS 1.3 and as much of HTTP/2 and gRPC as that takes, on one blocking socket: what is measured
from call to first byte is the server and one round trip, not the start of a client."""

import os
import ssl
import socket

from .hold import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    frame,
    literal,
)

RST_STREAM, GOAWAY, WINDOW_UPDATE = 3, 7, 8
CANCEL = (8).to_bytes(4, "big")
# The largest window; nothing here waits for room.
ROOM = (1 << 31) - 1
DEFAULT_WINDOW = 65535


def varint(number):
    """A number of protobuf."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number, payload):
    """A length-delimited field of protobuf."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def grpc(message):
    """A message in gRPC's frame."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


class Connection:
    """One connection and the calls on it."""

    def __init__(self, server):
        context = ssl.create_default_context(cafile=server.pki / "ca.crt")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        user = getattr(server, "user", "bench")
        context.load_cert_chain(server.pki / f"{user}.crt", server.pki / f"{user}.key")
        context.set_alpn_protocols(["h2"])
        host, port = server.address.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=host)
        self.buffer = b""
        self.stream = -1
        # Names of calls are the server's, not the connection's.
        self.name = os.urandom(6).hex()
        self.address = server.address
        more = (ROOM - DEFAULT_WINDOW).to_bytes(4, "big")
        self.socket.sendall(PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, payload=more))

    def close(self):
        """Closes it."""
        self.socket.close()

    def open(self, module, message=b"x", wait=True):
        """Opens a call and sends one message -> its stream; with `wait` after an answer has come."""
        self.stream += 2
        stream = self.stream
        fields = b"\x83\x87"
        fields += literal(":path", "/legatus.v1.Legatus/Call") + literal(":authority", self.address)
        fields += literal("content-type", "application/grpc") + literal("te", "trailers")
        call = field(1, f"{self.name}-{stream}".encode()) + field(2, module.encode())
        parts = grpc(field(1, call)) + grpc(field(2, message))
        self.socket.sendall(
            frame(HEADERS, END_HEADERS, stream, fields) + frame(DATA, 0, stream, parts)
        )
        if wait:
            self.until(stream, DATA)
        return stream

    def finish(self, stream):
        """Says that no more messages come, and waits for the end."""
        self.socket.sendall(frame(DATA, END_STREAM, stream))
        self.until(stream, HEADERS, END_STREAM)

    def cancel(self, stream):
        """Resets a call."""
        self.socket.sendall(frame(RST_STREAM, 0, stream, CANCEL))

    def until(self, stream, kind, flag=0):
        """Reads until such a frame has come on a stream -> its payload."""
        while True:
            head = self.take(9)
            payload = self.take(int.from_bytes(head[:3], "big"))
            got, flags, number = head[3], head[4], int.from_bytes(head[5:9], "big")
            if got in (SETTINGS, PING) and not flags & ACK:
                answer = payload if got == PING else b""
                self.socket.sendall(frame(got, ACK, payload=answer))
            if got == GOAWAY or (got == RST_STREAM and number == stream):
                raise ConnectionError(f"the server ended it: {payload}")
            if (got, number) == (kind, stream) and flags & flag == flag:
                return payload
            if (got, number) == (HEADERS, stream) and flags & END_STREAM:
                raise ConnectionError(f"the call has ended: {payload}")

    def take(self, length):
        """So many bytes."""
        while len(self.buffer) < length:
            more = self.socket.recv(1 << 16)
            if not more:
                raise ConnectionError("the server closed the connection")
            self.buffer += more
        taken, self.buffer = self.buffer[:length], self.buffer[length:]
        return taken
