"""The measurements of `../scale`: CPU per request, memory and start-up of one point. Each takes a fresh Lab and returns
plain numbers."""

import time
from dataclasses import dataclass
from pathlib import Path
from string import Template

from .cases import Case
from .contenders import CONTENDERS, LAYOUTS, UPSTREAM
from .lab import CONFIGS, READY_WITHIN, Failed, Lab, cpu_us, resident_kib
from .measure import settle, trace

# Upstreams listen from this port on; it lies below the ephemeral ones.
FIRST_PORT = 10_000
# Descriptors of warmline at the largest points.
DESCRIPTORS = 20_000
SHORT = Case("short", "One request a connection", ())
PERSISTENT = Case("persistent", "200 requests a connection", (), per_connection=200)


@dataclass(frozen=True)
class Plan:
    repetitions: int
    requests: int  # on short connections
    many: int  # on persistent ones
    warm_up: int = 2000
    memory_repetitions: int = 3
    traced: int = 3000
    rate_seconds: int = 3


FULL = Plan(repetitions=5, requests=8000, many=40_000)
QUICK = Plan(repetitions=1, requests=4000, many=20_000, warm_up=1000, memory_repetitions=1, rate_seconds=1)


def start(lab, point):
    """warmline as `point` says, with all its connections open; None without a proxy."""
    if not point.proxy:
        lab.start_proxy(CONTENDERS["direct"], SHORT)
        return None
    before = lab.accepted()
    addresses = [f"127.0.0.1:{FIRST_PORT + n}" for n in range(point.upstreams)]
    proxy = lab.start_warmline(config(point, addresses), addresses, SHORT)
    wait_for_connections(lab, before + floor(point) * point.upstreams)
    return proxy


def floor(point):
    return point.connections if point.min_connections is None else point.min_connections


def wait_for_connections(lab, count):
    end = time.monotonic() + READY_WITHIN
    while lab.accepted() < count:
        if time.monotonic() > end:
            raise Failed(f"{lab.accepted()} of {count} upstream connections: {lab.errors()}")
        time.sleep(0.01)


def config(point, addresses):
    protocol, layout = LAYOUTS[SHORT.protocol]
    values = {"mode": point.mode, "connections": point.connections, "min_connections": floor(point),
              "upstream": UPSTREAM, "protocol": protocol, "layout": layout, "clients": point.clients + point.in_flight + 100,
              "room": "" if point.mode == "exclusive" else f"max_in_flight = {max(128, point.in_flight)}"}
    head, one = ((CONFIGS / name).read_text() for name in ("scale.toml", "scale-upstream.toml"))
    upstreams = (Template(one).substitute(values, number=number, listen=listen)
                 for number, listen in enumerate(addresses))
    return Template(head).substitute(values) + "".join(upstreams)


def idle(lab, point):
    """Connects the idle clients of `point`; each has made one request."""
    clients = lab.hold(SHORT, point.clients)
    if (right := lab.ask(clients)["right"]) != point.clients:
        raise Failed(f"{point.clients - right} idle clients got no right reply")


def cost(point, plan, programs):
    """CPU us per request, of warmline and of the server, on short connections and on persistent ones."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        if point.clients:
            idle(lab, point)
        how = {"in_flight": point.in_flight, "everywhere": point.everywhere}
        lab.load(SHORT, max(plan.warm_up, 2 * point.upstreams), **how)
        found = {"wrong": 0, "failed": 0, "opened": 0}
        loads = [(SHORT, point.rate * plan.rate_seconds or plan.requests)]
        # What persistent clients gain from a proxy at a rate is not asked.
        if not point.rate or not point.proxy:
            loads.append((PERSISTENT, point.rate * plan.rate_seconds or plan.many))
        for case, requests in loads:
            opened, before = lab.accepted(), used(lab, proxy)
            report = lab.load(case, requests, rate=point.rate, **how)
            spent = {who: (now - before[who]) / requests for who, now in used(lab, proxy).items()}
            found |= {f"{who}_{case.name}": us for who, us in spent.items()}
            found["wrong"] += report["wrong"]
            found["failed"] += sum(report["errors"].values())
            found["opened"] += lab.accepted() - opened
    return found


def syscalls(point, plan, programs):
    """System calls per request on short connections, by name."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        how = {"in_flight": point.in_flight, "everywhere": point.everywhere}
        lab.load(SHORT, max(plan.warm_up, 2 * point.upstreams), **how)
        return trace(lab, proxy, plan.traced, lambda: lab.load(SHORT, plan.traced, **how))


def used(lab, proxy):
    return {"server": cpu_us(lab.upstream.pid)} | ({"proxy": cpu_us(proxy.pid)} if proxy else {})


def clients(point, programs):
    """Resident KiB with idle clients that have sent nothing yet, and after a request of each."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        held = lab.hold(SHORT, point.clients)
        settle(lab, proxy.pid)
        found = {"silent": resident_kib(proxy.pid)}
        lab.ask(held)
        return found | {"asked": resident_kib(proxy.pid)}


def connections(point, programs):
    """Resident KiB with open upstream connections, and after a load that has used all of them. Its clients are as
    many at each point, so what they leave behind is no part of the slope."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        found = {"open": resident_kib(proxy.pid)}
        lab.load(PERSISTENT, 20 * point.in_flight, in_flight=point.in_flight)
        return found | {"used": resident_kib(proxy.pid)}


def upstreams(point, programs):
    """Resident KiB with upstreams that have no connection, and with one each after a request to each."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        found = {"untouched": resident_kib(proxy.pid)}
        lab.load(SHORT, 2 * point.upstreams, everywhere=True)
        return found | {"used": resident_kib(proxy.pid)}


def together(point, programs):
    """Resident KiB with idle clients, upstreams and connections at once."""
    with Lab(programs) as lab:
        proxy = start(lab, point)
        idle(lab, point)
        return resident_kib(proxy.pid)


def startup(point, programs):
    """Milliseconds from the start to a connection of each upstream, and CPU spent on it."""
    with Lab(programs) as lab:
        begin = time.monotonic()
        proxy = start(lab, point)
        return {"wall_ms": (time.monotonic() - begin) * 1000, "cpu_ms": cpu_us(proxy.pid) / 1000}


def kernel(count, programs):
    """KiB of kernel memory of a TCP connection, both ends on this host: what slabs grow by."""
    with Lab(programs) as lab:
        lab.start_proxy(CONTENDERS["direct"], SHORT)
        before = slab_kib()
        lab.hold(SHORT, count)
        return (slab_kib() - before) / count


def slab_kib():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))
