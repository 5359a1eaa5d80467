"""A Python client: one request per connection, every byte of the reply compared.

Arguments: frame|line PORT COUNT. The frame: length (4), flags (1), zeros (3), id (8), payload.
"""

import os
import random
import socket
import struct
import sys

HEADER = struct.Struct(">IB3xQ")


def frame(stream, number):
    payload = os.urandom(random.randint(16, 20_000))
    stream.write(HEADER.pack(len(payload), 0, number) + payload)
    stream.flush()
    header = HEADER.unpack(stream.read(HEADER.size))
    assert header == (len(payload), 0, number), header
    assert stream.read(len(payload)) == payload, "a reply of somebody else"


def line(stream, number):
    request = b"echo %d %s\n" % (number, os.urandom(random.randint(16, 5_000)).hex().encode())
    stream.write(request)
    stream.flush()
    assert stream.readline() == request, "a reply of somebody else"


def main():
    ask = {"frame": frame, "line": line}[sys.argv[1]]
    port, count = int(sys.argv[2]), int(sys.argv[3])
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            with connection.makefile("rwb") as stream:
                ask(stream, number)
    print(f"{count} right")


main()
