#!/usr/bin/env python3
"""A web server for checks: serves a folder on a free loopback port, which it prints, or on a Unix socket.

    web_server.py FOLDER [SOCKET]
"""

import http.server
import os
import socketserver
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_):
        pass

    def address_string(self):
        return "somebody"


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """One thread for each connection, and room for a thousand that come at once."""

    daemon_threads = True
    request_queue_size = 1024


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The same on a Unix socket."""

    daemon_threads = True


def main():
    """Serves until it is ended."""
    os.chdir(sys.argv[1])
    if len(sys.argv) > 2:
        UnixServer(sys.argv[2], Handler).serve_forever()
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


main()
