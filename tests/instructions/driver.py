"""The fixed scripts, and the one who plays them: client and server in one thread, a step at a time.

Before each step warmline has come to rest, so that what it finds is the same in every run. All run on one core, and
warmline never takes it from the driver: a client has sent its request before its connection is accepted.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120  # seconds a script may take

FRAME = "frame = { length = { offset = 0, size = 4, adjust = 4 }, id = { offset = 4, size = 8 } }"
LINE = "line = {}"


class Failed(Exception):
    """The script could not be played to its end."""


@dataclass(frozen=True)
class Script:
    protocol: str
    mode: str
    one_shot: bool = False  # warmline closes first
    persistent: bool = False  # one client asks everything
    unix: bool = False

    def message(self, number):
        if self.protocol == LINE:
            return f"{number:059} ask\n".encode()
        return (60).to_bytes(4, "big") + (7).to_bytes(8, "big") + f"{number:052}".encode()

    def configuration(self, folder, upstream):
        listen = f"unix:{folder}/x.sock" if self.unix else "127.0.0.1:0"
        return f"""log = {{ level = "info", format = "json" }}
[upstreams.x]
listen = "{listen}"
endpoints = ["{upstream}"]
protocol.{self.protocol}
pool = {{ mode = "{self.mode}", min_connections = 1, max_connections = 1 }}
sockets.one_shot = {str(self.one_shot).lower()}
"""


SCRIPTS = {
    "multiplex": Script(FRAME, "multiplex", one_shot=True),
    "exclusive": Script(FRAME, "exclusive", one_shot=True),
    "client-closes": Script(FRAME, "multiplex"),
    "persistent": Script(FRAME, "multiplex", persistent=True),
    "line": Script(LINE, "pipeline", one_shot=True),
    "unix": Script(FRAME, "multiplex", one_shot=True, unix=True),
}


@contextlib.contextmanager
def limit(seconds):
    """A bound for every wait inside."""
    def give_up(*_):
        raise Failed(f"not done after {seconds} s")
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def play(script, rounds, command, folder):
    """Starts warmline by `command`, plays so many rounds, ends it by SIGTERM and waits for its end."""
    with limit(PATIENCE), contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        config = Path(folder, "warmline.toml")
        config.write_text(script.configuration(folder, "127.0.0.1:%d" % listener.getsockname()[1]))
        warmline = stack.enter_context(Warmline([*command, "run", "--config", str(config)]))
        address = warmline.address()
        upstream, _ = listener.accept()
        stack.enter_context(upstream)
        warmline.rest()
        ask_all(script, rounds, warmline, address, upstream)
        warmline.end()


def ask_all(script, rounds, warmline, address, upstream):
    client = None
    for number in range(rounds):
        request = script.message(number)
        with undisturbed():
            client = client or connect(address)
            client.sendall(request)
        passed_on = receive(upstream, len(request))
        warmline.rest()
        upstream.sendall(passed_on)
        reply = receive(client, len(request))
        if reply != request:
            raise Failed(f"wrong reply: {reply!r} to {request!r}")
        if script.one_shot and client.recv(1):
            raise Failed("more than one reply")
        warmline.rest()
        if not script.persistent:
            client.close()
            client = None
            warmline.rest()
    if client:
        client.close()


@contextlib.contextmanager
def undisturbed():
    """Nobody else runs on this core meanwhile. Where that is not permitted, a busy machine sometimes lets warmline
    accept a connection that has no request yet."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def connect(address):
    unix = address.startswith("unix:")
    client = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    host, _, port = address.partition(":")
    client.connect(port if unix else (host, int(port)))
    return client


def receive(stream, size):
    received = b""
    while len(received) < size:
        part = stream.recv(size - len(received))
        if not part:
            raise Failed(f"closed after {len(received)} of {size} bytes")
        received += part
    return received


class Warmline:
    """The process, in a context that ends it by its id."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True)
        # It does not interrupt the driver when it wakes up.
        os.sched_setscheduler(self.process.pid, os.SCHED_BATCH, os.sched_param(0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def address(self):
        """Where it listens, once it does."""
        log = []
        for line in self.process.stderr:
            log.append(line)
            if line.startswith("{"):
                event = json.loads(line)
                event = event.get("fields", event)
                if event.get("message") == "listening":
                    return event["address"]
        raise Failed("warmline ended:\n" + "".join(log))

    def rest(self):
        """Waits until it sleeps in the kernel: it has one thread, so nothing is left to be done."""
        while True:
            state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2][0]
            if state == "S":
                return
            if state == "Z":
                raise Failed("warmline ended:\n" + self.process.stderr.read())
            os.sched_yield()

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate()
        if self.process.returncode:
            raise Failed(f"warmline ended with {self.process.returncode}:\n{log}")
