"""The simulation of one host: requests arrive in bursts and travel over short connections, or over the pool of a
warmline. The pool follows the rules of `src/queue` and `src/pool`: who gets what, when another connection is opened, when
one is closed. Times are seconds. A server's time for a request does not depend on its load."""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

# How often connections are counted.
TICK = 0.1
ARRIVAL, DONE, DIALLED, IDLE = range(4)


@dataclass(frozen=True)
class Load:
    """Bursts come only while a host is `on`; each is a Pareto number of requests, close together."""

    rate: float  # requests a second, on average
    on: float = 0.5  # seconds, exponential; 0: always on
    off: float = 1.5
    alpha: float = 1.6  # of the burst; 0: each request alone
    largest: int = 100
    apart: float = 0.001  # within a burst, exponential
    service: float = 0.010  # mean
    sigma: float = 1.0  # of the log-normal service; 0: exponential

    def burst(self):
        """Mean requests of a burst."""
        if not self.alpha:
            return 1.0
        return sum(n**-self.alpha for n in range(1, self.largest + 1))


def requests(load, seconds, rng):
    """(arrival, service) in order."""
    found, now = [], 0.0
    share = load.on / (load.on + load.off) if load.on else 1.0
    pace = load.rate / load.burst() / share
    ends = rng.expovariate(1 / load.on) if load.on else math.inf
    while True:
        now += rng.expovariate(pace)
        while now > ends:
            pause = rng.expovariate(1 / load.off)
            now, ends = now + pause, ends + pause + rng.expovariate(1 / load.on)
        if now >= seconds:
            break
        at = now
        for _ in range(burst_size(load, rng)):
            found.append((at, service(load, rng)))
            at += rng.expovariate(1 / load.apart)
    return sorted(found)


def burst_size(load, rng):
    # At least n with a chance of n to the power of -alpha.
    return min(load.largest, int((1 - rng.random()) ** (-1 / load.alpha))) if load.alpha else 1


def service(load, rng):
    if not load.sigma:
        return rng.expovariate(1 / load.service)
    return rng.lognormvariate(math.log(load.service) - load.sigma**2 / 2, load.sigma)


def direct(arrivals, rtt, seconds):
    """Connections open at each tick when each request has one of its own. It exists for a round trip before the request
    comes, for the service, and for a round trip until the client's end is heard."""
    ticks = [0] * (round(seconds / TICK) + 1)
    for at, time in arrivals:
        for tick in range(math.ceil(at / TICK), min(len(ticks), math.ceil((at + 2 * rtt + time) / TICK))):
            ticks[tick] += 1
    return ticks


def found_at_arrival(arrivals, rtt, begin):
    """How many requests are in service when one comes, itself included, if none has to wait. Bursts make it more than
    the number at a moment taken by chance."""
    ends, found = [], []
    for at, time in arrivals:
        while ends and ends[0] <= at:
            heapq.heappop(ends)
        heapq.heappush(ends, at + rtt + time)
        if at >= begin:
            found.append(len(ends))
    return found


@dataclass(frozen=True)
class Pool:
    max_connections: int
    min_connections: int = 1
    room: int = 1  # requests in flight on a connection
    grow_at: int = 1
    endpoints: int = 1
    max_connecting: int = 4
    max_waiting: int = 1024
    acquire_timeout: float = 3.0
    idle_timeout: float = 30.0


@dataclass(eq=False)
class Connection:
    endpoint: int
    in_flight: int = 0
    used: int = 0
    idle_since: float = 0.0


@dataclass
class Host:
    """Runs once."""

    pool: Pool
    rtt: float
    begin: float = 0.0  # before this, nothing is counted in `waits`, `refused` and `opened`
    waits: list = field(default_factory=list)  # of each request that was served
    sojourns: float = 0.0  # their seconds here, in all
    held: float = 0.0  # the same, as the area below the number of requests here
    refused: int = 0
    opened: int = 0
    ticks: list = field(default_factory=list)  # connections at each

    def run(self, arrivals, seconds):
        self.connections, self.connecting = [], []
        self.waiting, self.events, self.sequence = deque(), [], 0
        self.in_flight, self.clock, self.turn, self.now = [0] * self.pool.endpoints, 0, 0, 0.0
        self.touched = False
        for _ in range(self.pool.min_connections):
            self.join(self.emptiest())
        # What was open from the start was not opened by the load.
        self.opened = 0
        arrivals = iter(arrivals)
        self.await_arrival(arrivals)
        while self.events and self.events[0][0] < seconds:
            at, _, kind, what = heapq.heappop(self.events)
            self.advance(at)
            if kind == ARRIVAL:
                self.arrive(what)
                self.await_arrival(arrivals)
            elif kind == DONE:
                self.done(what)
            elif kind == DIALLED:
                self.connecting.remove(what)
                self.join(what)
            else:
                self.close_if_idle(what)
            self.dial()
        self.advance(seconds)
        return self

    def schedule(self, at, kind, what):
        self.sequence += 1
        heapq.heappush(self.events, (at, self.sequence, kind, what))

    def await_arrival(self, arrivals):
        if following := next(arrivals, None):
            self.schedule(following[0], ARRIVAL, following)

    def advance(self, at):
        while len(self.ticks) * TICK <= at:
            self.ticks.append(len(self.connections) + len(self.connecting))
        self.held += (at - self.now) * (sum(self.in_flight) + len(self.waiting))
        self.now = at

    def arrive(self, request):
        self.touched = True
        if not self.waiting and (connection := self.choose()):
            self.give(connection, request)
        elif len(self.waiting) >= self.pool.max_waiting:
            self.refuse(request)
        else:
            self.waiting.append(request)

    def refuse(self, request):
        self.refused += request[0] >= self.begin

    def choose(self):
        """The endpoint with the fewest in flight, ties rotate; in it the most recently used connection below `grow_at`,
        then the least loaded."""
        count, grow_at, best, best_key = self.pool.endpoints, self.pool.grow_at, None, None
        for c in self.connections:
            if c.in_flight < self.pool.room:
                crowded = c.in_flight >= grow_at
                key = (self.in_flight[c.endpoint], (c.endpoint - self.turn) % count, crowded,
                       c.in_flight if crowded else 0, -c.used)
                if best is None or key < best_key:
                    best, best_key = c, key
        return best

    def give(self, connection, request):
        arrived, time = request
        self.clock += 1
        connection.used = self.clock
        connection.in_flight += 1
        self.in_flight[connection.endpoint] += 1
        self.turn = (connection.endpoint + 1) % self.pool.endpoints
        if arrived >= self.begin:
            self.waits.append(self.now - arrived)
        self.sojourns += self.now - arrived + self.rtt + time
        self.schedule(self.now + self.rtt + time, DONE, connection)

    def done(self, connection):
        connection.in_flight -= 1
        self.in_flight[connection.endpoint] -= 1
        self.serve_waiting()
        if connection.in_flight == 0:
            self.rest(connection)

    def serve_waiting(self):
        while self.waiting and self.waiting[0][0] + self.pool.acquire_timeout < self.now:
            self.refuse(self.waiting.popleft())
        while self.waiting and (connection := self.choose()):
            self.give(connection, self.waiting.popleft())

    def rest(self, connection):
        connection.idle_since = self.now
        if len(self.connections) > self.pool.min_connections:
            self.schedule(self.now + self.pool.idle_timeout, IDLE, connection)

    def close_if_idle(self, connection):
        idle = connection.in_flight == 0 and connection.idle_since + self.pool.idle_timeout <= self.now + 1e-9
        if idle and connection in self.connections and len(self.connections) > self.pool.min_connections:
            self.connections.remove(connection)

    def join(self, endpoint):
        connection = Connection(endpoint)
        self.connections.append(connection)
        self.opened += self.now >= self.begin
        self.serve_waiting()
        if connection.in_flight == 0:
            self.rest(connection)

    def dial(self):
        """Opens connections as long as another one is wanted and allowed."""
        pool = self.pool
        while (len(self.connecting) < pool.max_connecting
               and len(self.connections) + len(self.connecting) < pool.max_connections):
            overload = sum(max(0, c.in_flight - pool.grow_at) for c in self.connections) if pool.room > 1 else 0
            endpoint = self.uncovered()
            if endpoint is None and len(self.waiting) + overload <= len(self.connecting):
                return
            endpoint = self.emptiest() if endpoint is None else endpoint
            self.connecting.append(endpoint)
            self.schedule(self.now + self.rtt, DIALLED, endpoint)

    def uncovered(self):
        """An endpoint without a connection that could share the load: there were requests since the last look."""
        if not self.touched or not self.connections:
            return None
        there = {c.endpoint for c in self.connections} | set(self.connecting)
        found = next((e for e in range(self.pool.endpoints) if e not in there), None)
        self.touched = found is not None
        return found

    def emptiest(self):
        count = [0] * self.pool.endpoints
        for c in self.connections:
            count[c.endpoint] += 1
        for endpoint in self.connecting:
            count[endpoint] += 1
        return count.index(min(count))
