"""A server and a client of python-lsp-jsonrpc over TCP, with headers.

`server` prints its port, then on each line of standard input the number of connections it has accepted; ends with
standard input. `client PORT COUNT SECONDS` makes so many connections, eight at a time, and checks every value; an
answer must come within so many seconds. `ordered` is a server that replies in the order of its requests.
"""

import itertools
import logging
import os
import random
import socket
import socketserver
import sys
import threading
import traceback
import uuid

from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.exceptions import JsonRpcException
from pylsp_jsonrpc.streams import JsonRpcStreamReader, JsonRpcStreamWriter


def multiply(params):
    result = {"product": params["a"] * params["b"], "text": f"<{params['text']}>"}
    # In a thread of its own, so that replies overtake each other.
    return result if sys.argv[1] == "ordered" else lambda: result


def fail(params):
    raise JsonRpcException(f"no {params['text']}", -1)


class Connection(socketserver.StreamRequestHandler):
    def handle(self):
        self.server.accepted = next(self.server.counter)
        endpoint = Endpoint({"multiply": multiply, "fail": fail}, JsonRpcStreamWriter(self.wfile).write)
        # Nobody asked for it.
        endpoint.notify("progress", {"done": 1})
        JsonRpcStreamReader(self.rfile).listen(endpoint.consume)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    counter = itertools.count(1)
    accepted = 0


def serve():
    with Server(("127.0.0.1", 0), Connection) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        for _ in sys.stdin:
            print(server.accepted, flush=True)


def listen(reader, endpoint):
    try:
        reader.listen(endpoint.consume)
    except ConnectionError:
        pass  # It is over, and so is the connection.


def ask(port):
    a, b, text = random.getrandbits(60), random.getrandbits(60), f'é"\\\n\u2028😀 {uuid.uuid4()}'
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        endpoint = Endpoint({}, JsonRpcStreamWriter(connection.makefile("wb")).write)
        reader = JsonRpcStreamReader(connection.makefile("rb"))
        listening = threading.Thread(target=listen, args=[reader, endpoint], daemon=True)
        listening.start()
        endpoint.notify("multiply", {"a": a, "b": b, "text": text})
        calls = [endpoint.request("multiply", {"a": a, "b": n, "text": text}) for n in (b, 1)]
        first, second = (call.result(timeout=int(sys.argv[4])) for call in calls)
        assert first == {"product": a * b, "text": f"<{text}>"}, first
        assert second == {"product": a, "text": f"<{text}>"}, second
        try:
            endpoint.request("fail", {"a": a, "b": b, "text": text}).result(timeout=int(sys.argv[4]))
            raise AssertionError("no error")
        except JsonRpcException as error:
            assert (error.code, error.message) == (-1, f"no {text}"), error
        connection.shutdown(socket.SHUT_RDWR)
        listening.join()
        endpoint.shutdown()


def main():
    port, left = int(sys.argv[2]), itertools.count()

    def worker():
        try:
            while next(left) < int(sys.argv[3]):
                ask(port)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


logging.disable(logging.CRITICAL)
main() if sys.argv[1] == "client" else serve()
