"""A Python echo server with a thread for each connection.

Argument: frame|line. Prints its port, then on each line of standard input the number of connections it has
accepted; ends with standard input.
"""

import itertools
import socketserver
import struct
import sys
import threading

HEADER = struct.Struct(">IB3xQ")


class Frame(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.accepted = next(self.server.counter)
        while header := self.rfile.read(HEADER.size):
            payload = self.rfile.read(HEADER.unpack(header)[0])
            self.wfile.write(header + payload)


class Line(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.accepted = next(self.server.counter)
        while request := self.rfile.readline():
            self.wfile.write(request)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    counter = itertools.count(1)
    accepted = 0


def main():
    with Server(("127.0.0.1", 0), {"frame": Frame, "line": Line}[sys.argv[1]]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        for _ in sys.stdin:
            print(server.accepted, flush=True)


main()
