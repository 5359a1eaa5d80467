"""The measurement of `../overload`: a server whose capacity is known, and loads below and above it; and its results."""

import json
import re
import socket
import statistics
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .cases import Case
from .contenders import LAYOUTS, LISTEN, UPSTREAM
from .lab import CONFIGS, Failed, Lab, cpu_us, queued_us, resident_kib
from .report import table, targets_json, targets_table
from .scale_measure import wait_for_connections
from .targets import Target

# The server works on so many requests at a time, each of which takes so many milliseconds.
SLOTS, SERVICE_MS = 16, 16
CAPACITY = 1000 * SLOTS // SERVICE_MS
# Of the capacity.
LOADS = (0.5, 1.0, 1.5, 2.0, 3.0)
# Clients at a time. There are always places left: the load does not wait for replies.
PLACES = 3000
# How a client is told, with the words that the tools know.
ERRORS = {"frame": 'error = "00000007 72656675736564"', "frame-id": 'error = "0000000f {id} 72656675736564"',
          "line": r'error = "ERR {reason}\n"'}


@dataclass(frozen=True)
class Overloaded:
    name: str
    protocol: str
    mode: str
    connections: int
    max_waiting: int = 200
    acquire_timeout: str = "3s"

    def config(self, lab):
        protocol, layout = LAYOUTS[self.protocol]
        values = {**vars(self), "dir": lab.dir, "listen": LISTEN, "upstream": UPSTREAM,
                  "room": SLOTS // self.connections, "protocol": protocol, "layout": layout,
                  "error": ERRORS[self.protocol]}
        return Template((CONFIGS / "overload.toml").read_text()).substitute(values)


CASES = [
    Overloaded("frame, exclusive", "frame", "exclusive", SLOTS),
    Overloaded("frame, multiplex", "frame-id", "multiplex", 4),
    Overloaded("line, exclusive", "line", "exclusive", SLOTS),
    Overloaded("line, exclusive, 100 ms", "line", "exclusive", SLOTS, max_waiting=1024, acquire_timeout="100ms"),
]


@dataclass(frozen=True)
class Plan:
    repetitions: int
    seconds: float  # of each load
    settle: float = 0.5  # of them, until the queue is as long as it stays


FULL = Plan(repetitions=3, seconds=2.5)
QUICK = Plan(repetitions=1, seconds=1.5)


def measure(case, plan, programs):
    """One load after the other on the same warmline. A dictionary each."""
    server = [programs["limited"], "--listen", UPSTREAM, "--protocol", case.protocol,
              "--slots", str(SLOTS), "--service", str(SERVICE_MS)]
    with Lab(programs, server) as lab:
        asks = Case(case.name, "", (), protocol=case.protocol)
        proxy = lab.start_warmline(case.config(lab), [LISTEN], asks)
        wait_for_connections(lab, case.connections)
        rest = resident_kib(proxy.pid)
        points = [point(lab, proxy, asks, plan, load) for load in LOADS]
    peak = max(point["goodput"] for point in points)
    return [one | {"of_peak": one["goodput"] / peak, "rest_kib": rest} for one in points]


def point(lab, proxy, asks, plan, load):
    rate = round(load * CAPACITY)
    requests = round(rate * plan.seconds)
    both = (proxy.pid, lab.upstream.pid)
    before, cpu, waited = refusals(lab), cpu_us(proxy.pid), [queued_us(pid) for pid in both]
    report = lab.load(asks, requests, rate, in_flight=PLACES, settle=plan.settle)
    cpu, waited = cpu_us(proxy.pid) - cpu, [queued_us(pid) - past for pid, past in zip(both, waited)]
    refused = refusals(lab)
    refused = {reason: count - before.get(reason, 0) for reason, count in refused.items() if count > before.get(reason, 0)}
    told = sum(report["refused"].values())
    if told != sum(refused.values()):
        raise Failed(f"{told} clients were refused in words, and {refused} were counted")
    failed = sum(report["errors"].values())
    return {"offered": load, "requests": requests, "goodput": report["goodput"],
            "of_capacity": report["goodput"] / CAPACITY, "right": report["right"], "refused": refused,
            "words": report["refused"], "wrong": report["wrong"], "failed": failed,
            "p50_ms": report["latency_us"]["p50"] / 1000, "p99_ms": report["latency_us"]["p99"] / 1000,
            "busy": cpu / 1e6 / report["seconds"], "waited": max(waited) / 1e6 / report["seconds"],
            "peak_kib": peak_kib(proxy.pid)}


def refusals(lab):
    """What warmline has counted, by reason."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(f"{lab.dir}/admin.sock")
        admin.sendall(b"GET /metrics HTTP/1.0\r\nHost: admin\r\n\r\n")
        text = b"".join(iter(lambda: admin.recv(1 << 16), b"")).decode()
    found = re.findall(r'^warmline_refused_total\{.*reason="(\w+)".*\} (\d+)$', text, re.MULTILINE)
    if not found:
        raise Failed("the metrics have no refusals")
    return {reason: int(count) for reason, count in found}


def peak_kib(pid):
    """The most that was resident so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def least(load):
    return lambda r: min(r.median(case.name, load, "of_peak") for case in CASES)


# A ratio that must not be too small, as one that must not be too large.
TARGETS = [
    Target("capacity offered three times: goodput lost, of its peak", 0.1, lambda r: 1 - least(3.0)(r), tie=0),
    Target("wrong replies, refusals that are not in words, connections that failed", 0,
           lambda r: sum(run["wrong"] + run["failed"] for runs in r.runs.values() for run in runs), tie=0),
]


class Results:
    def __init__(self, machine, plan):
        self.machine, self.plan = machine, plan
        self.runs = {}  # (case, load): one dictionary a repetition
        self.failures = []

    def median(self, case, load, figure):
        return statistics.median(run[figure] for run in self.runs[case, load])

    def write(self, into):
        into.mkdir(parents=True, exist_ok=True)
        runs = [{"case": case, "offered": load, "repetitions": runs} for (case, load), runs in self.runs.items()]
        found = {"machine": self.machine, "plan": vars(self.plan), "targets": targets_json(TARGETS, self), "runs": runs,
                 "failures": self.failures}
        (into / "overload.json").write_text(json.dumps(found, indent=1) + "\n")
        (into / "OVERLOAD.md").write_text("\n".join(self._markdown()) + "\n")

    def _markdown(self):
        yield "# Overload"
        yield ""
        yield "Written by `benches/compare/overload`; [README.md](README.md#overload) says what is measured."
        yield ""
        yield from table(("machine", ""), [(key, str(value)) for key, value in self.machine.items()])
        yield "## Targets"
        yield ""
        yield from targets_table(TARGETS, self)
        for case in CASES:
            if (case.name, LOADS[-1]) in self.runs:
                yield from self._case(case)
        if self.failures:
            yield "## Left out"
            yield ""
            yield from (f"- {failure}" for failure in self.failures)
            yield ""

    def _case(self, case):
        yield f"## {case.name[0].upper()}{case.name[1:]}"
        yield ""
        yield (f"{case.connections} connections, {SLOTS // case.connections} in flight on each; `max_waiting = {case.max_waiting}`,"
               f" `acquire_timeout = \"{case.acquire_timeout}\"`. At rest {self.median(case.name, LOADS[0], 'rest_kib') / 1024:.1f} MiB.")
        yield ""
        rows = []
        for load in LOADS:
            def middle(figure, scale=1, digits=0):
                return f"{scale * self.median(case.name, load, figure):,.{digits}f}"
            runs = self.runs[case.name, load]
            rows.append((f"{load:g}", f"**{middle('of_peak', digits=3)}**",
                         f"{min(run['of_peak'] for run in runs):.3f}", middle("of_capacity", digits=3), shares(runs),
                         f"{sum(run['wrong'] for run in runs)}, {sum(run['failed'] for run in runs)}",
                         middle("p50_ms"), middle("p99_ms"), middle("busy", 100), middle("waited", 100),
                         middle("peak_kib", 1 / 1024, 1)))
        yield from table(("offered, of the capacity", "goodput, of its peak", "least", "goodput, of the capacity", "refused",
                          "wrong, failed", "served: p50, ms", "p99, ms", "CPU, % of a core", "without a core, %", "most resident so far, MiB"), rows)


def shares(runs):
    """Of all requests, by reason."""
    requests = sum(run["requests"] for run in runs)
    reasons = sorted({reason for run in runs for reason in run["refused"]})
    counts = {reason: sum(run["refused"].get(reason, 0) for run in runs) for reason in reasons}
    return ", ".join(f"{100 * count / requests:.1f} % `{reason}`" for reason, count in counts.items()) or "none"
