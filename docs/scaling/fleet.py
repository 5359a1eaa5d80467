"""The figures of a fleet: hosts simulated one by one, then put together. `../scaling.md` says what each figure means."""

import hashlib
import itertools
import operator
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import subset
from host import TICK, Host, Load, Pool, direct, found_at_arrival, requests

SEED = 4
# struct tcp_timewait_sock in a slab of Linux 6.
TIME_WAIT_KIB = 0.25
TIME_WAIT_SECONDS = 60
# net.ipv4.ip_local_port_range by default.
PORTS = 60_999 - 32_768 + 1
# Seconds at the start of each host that are not counted: several times `idle_timeout`, so that a pool is as large as it
# stays. Its first connections are no running cost.
WARM_UP = 120
# The share by which the requests that come, while it is counted, may miss the rate that is meant.
NEAR = 0.02


@dataclass(frozen=True)
class Assumptions:
    hosts: int = 10_000
    servers: int = 200
    rate: float = 100.0  # requests a second and host
    rtt: float = 0.0005  # seconds
    processes: int = 50  # on a host, each of which may ask
    process_requests: int = 1000  # after which a process is replaced
    max_lifetime: float = 1800.0  # seconds, of an upstream connection
    at_once: int = 50  # requests that each host starts in one moment


FLEET = Assumptions()
LOAD = Load(FLEET.rate)
MULTIPLEX = Pool(4, room=128, grow_at=16)
EXCLUSIVE, MULTIPLEXED = "warmline exclusive, 32 (default)", "warmline multiplex, 4 (default)"
# The name of each way with warmline: its mode, its pool.
WAYS = {
    "warmline exclusive, at most 8": ("exclusive", Pool(8)),
    EXCLUSIVE: ("exclusive", Pool(32)),
    MULTIPLEXED: ("multiplex", MULTIPLEX),
    "warmline multiplex, 10 endpoints": ("multiplex", replace(MULTIPLEX, endpoints=10)),
}
SHORT, PERSISTENT = "a connection per request", "a connection per process"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# Requests a second: hosts, and seconds of each that are counted.
RATES = {10: (16, 600), 100: (4, 600), 1000: (1, 240)}
# Of a fleet: the same, and moments at which its connections are added up.
SAMPLE = (16, 600)
SLICES = 2000


def figures(coefficients):
    arrivals = traffic(FLEET.rate, *SAMPLE)
    ways = fleet(coefficients, arrivals)
    return rounded({
        "sources": sources(),
        "coefficients": coefficients,
        "assumptions": asdict(FLEET), "load": asdict(LOAD),
        "offered": offered(arrivals, *SAMPLE),
        "sweep": [sweep(rate) for rate in RATES],
        "fleet": ways,
        "hosts": hosts(coefficients, ways),
        "at_once": at_once(),
        "memory": memory(coefficients),
        "subsets": subset.figures(FLEET.hosts, FLEET.servers),
    })


def rounded(value):
    """To four digits: what a run shows is no more precise, and the file changes less."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def sources():
    """Of the programs that the figures come from: whether one of them has changed since."""
    digest = hashlib.sha256()
    for name in ("fleet.py", "host.py", "subset.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def traffic(rate, hosts, seconds):
    """The requests of each host, after the warm-up for so many seconds. They are drawn again until they are as many as
    `rate` says: bursts vary too much to leave that to chance."""
    for attempt in itertools.count():
        rng = random.Random(f"{SEED} {rate} {attempt}")
        found = [requests(replace(LOAD, rate=float(rate)), WARM_UP + seconds, rng) for _ in range(hosts)]
        if abs(offered(found, hosts, seconds) - rate) <= NEAR * rate:
            return found


def counted(arrivals):
    return sum(at >= WARM_UP for one in arrivals for at, _ in one)


def offered(arrivals, hosts, seconds):
    """Requests a second and host that came."""
    return counted(arrivals) / hosts / seconds


def sweep(rate):
    """How long requests wait for a connection, by the size of the pool. It is large enough if 99 of 100 requests wait no
    longer than the handshake takes that it saves; larger ones are not looked at."""
    hosts, seconds = RATES[rate]
    arrivals = traffic(rate, hosts, seconds)
    found = [count for one in arrivals for count in found_at_arrival(one, FLEET.rtt, WARM_UP)]
    rows = []
    for size in SIZES:
        rows.append(waits(Pool(size), arrivals, seconds))
        enough = rows[-1]["p99_ms"] <= FLEET.rtt * 1000 and not rows[-1]["refused"]
        if enough:
            break
    return {"rate": rate, "seconds": seconds, "hosts": hosts, "offered": offered(arrivals, hosts, seconds),
            "in_service": rate * (LOAD.service + FLEET.rtt), "p99_found": quantile(found, 0.99),
            "enough": size if enough else None, "pools": rows, "multiplex": waits(MULTIPLEX, arrivals, seconds)}


def waits(pool, arrivals, seconds):
    runs = [Host(pool, FLEET.rtt, WARM_UP).run(one, WARM_UP + seconds) for one in arrivals]
    found = sorted(wait for run in runs for wait in run.waits)
    open_now = [count for run in runs for count in settled(run.ticks)]
    return {"max_connections": pool.max_connections, "mean_ms": 1000 * sum(found) / len(found),
            "p99_ms": 1000 * quantile(found, 0.99),
            "refused": sum(run.refused for run in runs) / counted(arrivals),
            "open": sum(open_now) / len(open_now)}


def settled(ticks):
    return ticks[round(WARM_UP / TICK):]


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def fleet(coefficients, arrivals):
    """What a server sees, by way."""
    hosts, seconds = SAMPLE
    per_server = FLEET.hosts * FLEET.rate / FLEET.servers
    short = [settled(direct(one, FLEET.rtt, WARM_UP + seconds)) for one in arrivals]
    left = per_server * TIME_WAIT_SECONDS
    ways = [way(SHORT, short, per_server, left, coefficients, "server_short_us"),
            way(PERSISTENT, [[FLEET.processes] * len(short[0])], per_server / FLEET.process_requests, 0,
                coefficients, "server_persistent_us")]
    for name, (mode, pool) in WAYS.items():
        runs = [Host(pool, FLEET.rtt, WARM_UP).run(one, WARM_UP + seconds) for one in arrivals]
        ticks = [settled(run.ticks) for run in runs]
        bursts = sum(run.opened for run in runs) / hosts / seconds * FLEET.hosts / FLEET.servers
        # As if every connection lived until it is replaced: a little more than there are.
        replaced = mean(ticks) / FLEET.max_lifetime * FLEET.hosts / FLEET.servers
        found = way(name, ticks, bursts + replaced, 0, coefficients, f"server_{mode}_short_us")
        waited = sorted(wait for run in runs for wait in run.waits)
        ways.append(found | {"mode": mode, "for_bursts": bursts, "p99_wait_ms": 1000 * quantile(waited, 0.99), "open": mean(ticks)})
    return ways


def mean(series):
    return sum(map(sum, series)) / sum(map(len, series))


def way(name, ticks, handshakes, time_wait, coefficients, cost):
    """`ticks`: connections of each simulated host at each moment. The fleet is made of them, each host at a moment of its
    own; which server a connection goes to is chance."""
    rng = random.Random(f"{SEED} {name}")
    at = [0] * SLICES
    rings = [(one * (SLICES // len(one) + 2)) for one in ticks]
    for _ in range(FLEET.hosts):
        which = rng.randrange(len(ticks))
        shift = rng.randrange(len(ticks[which]))
        at = list(map(operator.add, at, rings[which][shift:shift + SLICES]))
    share = 1 / FLEET.servers
    here = sorted(max(0.0, rng.gauss(n * share, (n * share * (1 - share)) ** 0.5)) for n in at)
    kernel = here[-1] * coefficients["kernel_kib"] / 2 + time_wait * TIME_WAIT_KIB
    return {"name": name, "mean": sum(here) / len(here), "p99": quantile(here, 0.99), "peak": here[-1],
            "time_wait": time_wait, "handshakes": handshakes, "kernel_mib": kernel / 1024,
            "cores": FLEET.hosts * FLEET.rate / FLEET.servers * coefficients[cost] / 1e6}


def hosts(coefficients, ways):
    """What a host pays, by way."""
    found = []
    for one in ways:
        if "mode" in one:
            cpu = coefficients[f"proxy_{one['mode']}_us"] * FLEET.rate / 1e6
            kib = resident(coefficients, FLEET.processes, one["open"], 1)
            found.append({"name": one["name"], "cores": cpu, "mib": kib / 1024, "time_wait": 0, "ports": one["open"],
                          "p99_wait_ms": one["p99_wait_ms"]})
    left = FLEET.rate * TIME_WAIT_SECONDS
    in_use = FLEET.rate * (LOAD.service + 2 * FLEET.rtt)
    return [{"name": SHORT, "cores": 0, "mib": 0, "time_wait": left, "ports": left + in_use},
            {"name": PERSISTENT, "cores": 0, "mib": 0, "time_wait": 0, "ports": FLEET.processes}, *found]


def at_once():
    """Every host starts so many requests in one moment: seconds until its last reply."""
    rng = random.Random(SEED)
    quiet = replace(LOAD, rate=1.0)
    arrivals = [(1.0, service) for _, service in requests(replace(quiet, alpha=0, on=0), 10_000, rng)[:FLEET.at_once]]
    share = FLEET.hosts / FLEET.servers
    found = [{"name": SHORT, "connections": FLEET.at_once * share, "handshakes": FLEET.at_once * share,
              "last_ms": 1000 * (max(time for _, time in arrivals) + 2 * FLEET.rtt)}]
    for name, (_, pool) in WAYS.items():
        # All of them are open: the host was busy before.
        warm = replace(pool, min_connections=pool.max_connections)
        run = Host(warm, FLEET.rtt).run(arrivals, 60.0)
        last = max(wait + time for wait, (_, time) in zip(run.waits, arrivals)) + FLEET.rtt
        found.append({"name": name, "connections": pool.max_connections * share, "handshakes": run.opened * share,
                      "last_ms": 1000 * last})
    return found


def resident(coefficients, clients, connections, upstreams):
    """KiB of a warmline."""
    return (coefficients["base_kib"] + clients * coefficients["client_kib"]
            + connections * coefficients["connection_kib"] + upstreams * coefficients["upstream_kib"])


def memory(coefficients):
    shapes = ((50, 16, 1), (500, 64, 4), (2000, 160, 10), (10_000, 320, 10), (10_000, 500, 500))
    return [{"clients": clients, "connections": connections, "upstreams": upstreams,
             "mib": resident(coefficients, clients, connections, upstreams) / 1024}
            for clients, connections, upstreams in shapes]
