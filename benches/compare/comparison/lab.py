"""One measurement's own world: a network namespace with the upstream server in it, where a proxy and a load are
started, and which takes all of them with it when it closes. Also what the kernel says of a process and the namespace."""

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from string import Template

from .contenders import ANSWERED, LAYOUTS, LISTEN, PROGRAMS, TEMPLATES, UPSTREAM

# The proxy has a core for itself; with several workers the other one, too.
PROXY_CORE, OTHER_CORE = 0, 1
# Seconds.
READY_WITHIN, REPORT_WITHIN = 15, 20
CONFIGS = Path(__file__).parent.parent / "configs"


class Failed(Exception):
    """A measurement that cannot be trusted, or was not possible."""


class Lab:
    """A context: closing it ends every process it started, by its id."""

    def __init__(self, programs, server=None):
        self.programs = programs
        self.started = []
        self.dir = Path(tempfile.mkdtemp(prefix="warmline-compare-"))
        server = server or [programs["upstream"], "--listen", UPSTREAM]
        inside = 'ip link set lo up && exec taskset -c "$@"'
        self.upstream = self._spawn(["unshare", "-n", "sh", "-c", inside, "sh", str(OTHER_CORE), *server])
        # Its first report says that it listens.
        try:
            self.accepted()
        except Failed:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            for pipe in (process.stdin, process.stdout):
                pipe.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.dir)

    def _spawn(self, command):
        with open(self.dir / "stderr", "ab") as errors:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.started.append(process)
        return process

    def start(self, cores, command):
        """Starts `command` in the namespace."""
        enter = ["nsenter", "-n", "-t", str(self.upstream.pid), "taskset", "-c", str(cores)]
        return self._spawn(enter + [str(word) for word in command])

    def start_proxy(self, contender, case):
        """Starts `contender` for `case` and waits until a request comes back. None without a proxy."""
        self.addresses = [f"unix:{self.dir}/proxy.sock" if case.unix else LISTEN]
        if contender.program is None:
            self.addresses = [UPSTREAM]
        cores = PROXY_CORE if contender.workers == 1 else f"{PROXY_CORE},{OTHER_CORE}"
        proxy = self.start(cores, self._command(contender, case)) if contender.program else None
        self._wait_for_reply(contender.name, proxy, case)
        return proxy

    def start_warmline(self, config, addresses, case):
        """Starts warmline with the text of a configuration that listens on `addresses`."""
        self.addresses = addresses
        path = self.dir / "warmline.toml"
        path.write_text(config)
        proxy = self.start(PROXY_CORE, [self.programs["warmline"], "run", "--config", path])
        self._wait_for_reply("warmline", proxy, case)
        return proxy

    def _wait_for_reply(self, name, proxy, case):
        end = time.monotonic() + READY_WITHIN
        while self.load(case, requests=1, seconds=1)["right"] != 1:
            if time.monotonic() > end or (proxy and proxy.poll() is not None):
                raise Failed(f"{name} does not answer: {self.errors()}")
            time.sleep(0.05)

    def _command(self, contender, case):
        speaks = contender.speaks.get(case.protocol, case.protocol)
        protocol, layout = LAYOUTS[speaks]
        values = {"program": self.programs[contender.program], "dir": self.dir, "listen": self.addresses[0],
                  "upstream": UPSTREAM, "clients": most_clients(contender), "speaks": speaks, "protocol": protocol,
                  "layout": layout, "descriptors": descriptors(), **contender.values}
        for name in ("listen", "upstream"):
            values[f"{name}_host"], _, values[f"{name}_port"] = values[name].rpartition(":")
        if template := contender.template or TEMPLATES.get(contender.program):
            values["config"] = self.dir / template
            values["config"].write_text(Template((CONFIGS / template).read_text()).substitute(values))
        return Template(PROGRAMS[contender.program][0]).substitute(values).split()

    def load(self, case, requests, rate=0, seconds=60, in_flight=32, everywhere=False, settle=0):
        """Runs the load of `case`, and returns its report. On the first address, or in turns on all of them."""
        to = [word for address in self.addresses[:None if everywhere else 1] for word in ("--to", address)]
        process = self.start(OTHER_CORE, [
            self.programs["load"], *to, "--protocol", case.protocol, "--requests", requests, "--in-flight", in_flight,
            "--per-connection", case.per_connection, "--rate", rate, "--seconds", seconds,
            "--settle", round(1000 * settle)])
        report = process.communicate(timeout=seconds + 10)[0]
        self.started.remove(process)
        if not report:
            raise Failed(f"no report from the load: {self.errors()}")
        return json.loads(report)

    def hold(self, case, clients):
        """Connects so many clients that do nothing; `ask` lets each make a request."""
        process = self.start(OTHER_CORE, [
            self.programs["hold"], "--to", self.addresses[0], "--protocol", case.protocol, "--clients", clients])
        self.read(process)
        return process

    def ask(self, process):
        """Asks a tool for its next report."""
        process.stdin.write("\n")
        process.stdin.flush()
        return self.read(process)

    def read(self, process):
        there, _, _ = select.select([process.stdout], [], [], REPORT_WITHIN)
        line = process.stdout.readline() if there else ""
        if not line:
            raise Failed(f"no report from a tool: {self.errors()}")
        return json.loads(line)

    def accepted(self):
        """Connections that the upstream server has taken in so far."""
        return self.ask(self.upstream)["accepted"]

    def time_wait(self):
        """Sockets in TIME_WAIT by side: the clients', the proxy's towards them, those between proxy and server."""
        sides = {"client": 0, "proxy": 0, "upstream": 0}
        address = self.addresses[0]
        port = None if address.startswith("unix:") else f"{int(address.rpartition(':')[2]):04X}"
        for line in Path(f"/proc/{self.upstream.pid}/net/tcp").read_text().splitlines()[1:]:
            local, remote, state = (word.rpartition(":")[2] for word in line.split()[1:4])
            if state == "06":
                sides["proxy" if local == port else "client" if remote == port else "upstream"] += 1
        return sides

    def queued(self):
        """Clients that have connected and are not accepted yet."""
        port = f"{int(self.addresses[0].rpartition(':')[2]):04X}"
        rows = (line.split() for line in Path(f"/proc/{self.upstream.pid}/net/tcp").read_text().splitlines()[1:])
        return sum(int(row[4].partition(":")[2], 16) for row in rows if row[3] == "0A" and row[1].endswith(f":{port}"))

    def errors(self):
        return (self.dir / "stderr").read_text(errors="replace").strip()[-500:]


def server(case, programs):
    """What answers the requests of `case`."""
    known = ["--protocol", case.protocol] if case.protocol in ANSWERED else []
    return [programs["upstream"], "--listen", UPSTREAM, *known]


def family(pid):
    """`pid` and all that it has started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_us(pid):
    """CPU time of a process, its threads and its children so far, user and system."""
    tasks = [task for member in family(pid) for task in Path(f"/proc/{member}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000


def queued_us(pid):
    """Time that the threads of a process have waited for a processor so far."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1000


def resident_kib(pid):
    """Resident memory of a process and its children."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1])
    return total


def raise_fd_limit(wanted=0):
    """To the hard limit, and beyond it to `wanted` where that is allowed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (max(wanted, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (ValueError, OSError):
            pass


def descriptors():
    """What a process may hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_clients(contender):
    """What its descriptors allow, with some to spare."""
    return min(20_000, (descriptors() - 200) // contender.descriptors)


def need_root():
    if os.geteuid() != 0:
        raise SystemExit("benches/compare makes network namespaces and installs packages: run it as root")
