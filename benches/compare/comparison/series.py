"""What is scaled: one entry a series, with the points that are measured in it. `../scale` interleaves them all."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One shape of warmline, and how it is used."""

    value: int  # what the series varies
    clients: int = 0  # connected and idle, after one request each
    mode: str = "multiplex"
    connections: int = 1  # an upstream
    upstreams: int = 1
    everywhere: bool = False  # the load goes to all upstreams in turns, not to one
    in_flight: int = 32
    rate: int = 0  # requests a second; 0: as fast as they are answered
    proxy: bool = True  # without: the load goes to the server
    min_connections: int | None = None  # as many as `connections`


@dataclass(frozen=True)
class Series:
    name: str
    what: str
    axis: str
    points: tuple


# Requests a second: of a host, of a busier one, of a server.
RATES = HOST_RATE, _, SERVER_RATE = 100, 1000, 5000
SERIES = {series.name: series for series in [
    Series("direct", "No proxy", "", (Point(0, proxy=False),)),
    Series("clients", "Idle clients connected, 32 active", "idle clients",
           tuple(Point(n, clients=n) for n in (10, 100, 1000, 10_000))),
    Series("rate direct", "A rate below saturation, no proxy", "requests a second",
           tuple(Point(n, proxy=False, rate=n) for n in RATES)),
    Series("rate exclusive", "A rate below saturation, exclusive, 32 connections", "requests a second",
           tuple(Point(n, mode="exclusive", connections=32, rate=n) for n in RATES)),
    Series("rate multiplex", "A rate below saturation, multiplex", "requests a second",
           tuple(Point(n, rate=n) for n in RATES)),
    Series("exclusive", "Upstream connections, exclusive, 64 clients active", "connections",
           tuple(Point(n, mode="exclusive", connections=n, in_flight=64) for n in (1, 4, 16, 64))),
    Series("multiplex", "Upstream connections, multiplex, 1,024 clients active", "connections",
           tuple(Point(n, connections=n, in_flight=1024) for n in (1, 4, 16, 64))),
    Series("upstreams", "Upstreams in one file, load on one of them", "upstreams",
           tuple(Point(n, upstreams=n) for n in (1, 10, 100, 500))),
    Series("everywhere", "Upstreams in one file, load on all of them", "upstreams",
           tuple(Point(n, upstreams=n, everywhere=True) for n in (1, 10, 100, 500))),
]}

# Memory: what is varied, and the points.
IDLE_CLIENTS = tuple(Point(n, clients=n) for n in (0, 1000, 2500, 5000, 10_000))
CONNECTIONS = tuple(Point(n, mode="exclusive", connections=n, in_flight=512) for n in (1, 128, 256, 512))
UPSTREAMS = tuple(Point(n, upstreams=n, min_connections=0) for n in (1, 100, 250, 500))
# All three at once: shows whether they add up.
TOGETHER = Point(0, clients=5000, mode="exclusive", connections=4, upstreams=100)
# Start-up, each upstream with its first connection.
START = tuple(Point(n, upstreams=n) for n in (1, 100, 250, 500))

# Whose system calls are counted: the first and the last point.
SYSCALLS = ("exclusive", "multiplex", "upstreams", "everywhere")
