"""The measurements: load, memory, system calls. Each takes a fresh Lab and returns plain numbers."""

import re
import signal
import subprocess
import time
from dataclasses import dataclass

from .cases import EVERY
from .contenders import CONTENDERS
from .lab import Failed, Lab, cpu_us, family, most_clients, queued_us, resident_kib, server


@dataclass(frozen=True)
class Plan:
    """How much is measured. The number of short connections stays below the ephemeral ports of a namespace, which
    a proxy that leaves TIME_WAIT would else run out of."""

    repetitions: int
    requests: int
    rate: int = 3000
    rate_seconds: int = 2
    warm_up: int = 2000
    idle_clients: int = 10_000
    traced: int = 3000


FULL = Plan(repetitions=5, requests=20_000)
QUICK = Plan(repetitions=1, requests=5000, rate_seconds=1, warm_up=500, traced=1000)


def under_load(case, contender, plan, programs):
    """CPU, throughput and what is left behind, as fast as it goes; then latency at a fixed rate."""
    case, contender = EVERY[case], CONTENDERS[contender]
    requests = plan.requests * case.many
    with Lab(programs, server(case, programs)) as lab:
        proxy = lab.start_proxy(contender, case)
        whose = (proxy or lab.upstream).pid
        lab.load(case, plan.warm_up)
        opened, left, cpu, served = lab.accepted(), lab.time_wait(), cpu_us(whose), cpu_us(lab.upstream.pid)
        waited = queued_us(whose)
        burst = lab.load(case, requests)
        cpu, served, waited = cpu_us(whose) - cpu, cpu_us(lab.upstream.pid) - served, queued_us(whose) - waited
        opened = lab.accepted() - opened
        left = {side: count - left[side] for side, count in lab.time_wait().items()}
        paced = lab.load(case, plan.rate * plan.rate_seconds, rate=plan.rate)
        accepted = lab.accepted()
    failed = sum(sum(report["errors"].values()) for report in (burst, paced))
    return {
        "cpu_us": cpu / requests, "server_us": served / requests, "per_second": burst["per_second"],
        **{name: paced["latency_us"][name] for name in ("p50", "p90", "p99", "p99.9")},
        "waited": waited / 1e6 / burst["seconds"], "opened": opened, "accepted": accepted, "time_wait": sum(left.values()),
        **{f"time_wait_{side}": count for side, count in left.items()},
        "wrong": burst["wrong"] + paced["wrong"], "failed": failed,
    }


def memory(case, contender, plan, programs):
    """Resident KiB at rest, with idle clients, and after each of them has made a request."""
    case, count = EVERY[case], min(plan.idle_clients, most_clients(CONTENDERS[contender]))
    with Lab(programs, server(case, programs)) as lab:
        proxy = lab.start_proxy(CONTENDERS[contender], case)
        rest = resident_kib(proxy.pid)
        clients = lab.hold(case, count)
        settle(lab, proxy.pid)
        idle = resident_kib(proxy.pid)
        right = lab.ask(clients)["right"]
        asked = resident_kib(proxy.pid)
    if right != count:
        raise Failed(f"{count - right} idle clients of {contender} got no right reply")
    return {"rest": rest, "idle": idle, "asked": asked, "clients": count}


def settle(lab, pid):
    """Waits until a proxy has taken in who waits, and uses no more CPU."""
    before, now = -1000.0, cpu_us(pid)
    for _ in range(200):
        if now - before < 100 and lab.queued() == 0:
            return
        time.sleep(0.05)
        before, now = now, cpu_us(pid)
    if lab.queued():
        raise Failed("the proxy does not accept who waits")


def syscalls(case, contender, plan, programs):
    """System calls per request by name."""
    case = EVERY[case]
    with Lab(programs, server(case, programs)) as lab:
        proxy = lab.start_proxy(CONTENDERS[contender], case)
        lab.load(case, plan.warm_up)
        return trace(lab, proxy, plan.traced, lambda: lab.load(case, plan.traced))


def trace(lab, proxy, requests, load):
    """Runs `load` under strace. That slows the proxy, so more requests share a wake-up than without it."""
    table = lab.dir / "strace"
    targets = [word for pid in family(proxy.pid) for word in ("-p", str(pid))]
    tracer = subprocess.Popen(["strace", "-f", "-c", "-o", table, *targets], stderr=subprocess.PIPE, text=True)
    try:
        if "attached" not in tracer.stderr.readline():
            raise Failed("strace may not attach here")
        load()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=10)
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", table.read_text(), re.MULTILINE)
    calls = {name: int(count) / requests for count, name in rows if name != "total"}
    return {"calls": calls, "total": sum(calls.values())}
