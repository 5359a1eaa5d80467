"""Whether the simulation is right where theory knows the answer, and whether a wrong one would be noticed."""

import math
import random
from dataclasses import replace

import queueing
from fleet import MULTIPLEX
from host import TICK, Host, Load, Pool, direct, requests

SEED = 7
MARKOV = Load(rate=400.0, on=0, alpha=0, sigma=0, service=0.010)
SECONDS = 300
BURSTY = Load(rate=100.0)


def run():
    """0, or what failed."""
    checks = (erlang_by_hand, waits_are_those_of_m_m_c, requests_here_are_rate_times_stay,
              short_connections_are_poisson, bursts_have_the_mean_they_should, a_pool_stays_within_its_bounds,
              an_idle_connection_is_closed)
    failed = [check.__name__ for check in checks if not check()]
    print(f"{len(checks)} checks, {len(failed)} failed")
    return f"failed: {', '.join(failed)}" if failed else 0


def near(found, expected, share):
    return abs(found - expected) <= share * expected


def erlang_by_hand():
    # One server: as many wait as find it busy. Two at a load of 1: a third.
    return near(queueing.erlang_c(50, 0.01, 1), 0.5, 1e-9) and near(queueing.erlang_c(100, 0.01, 2), 1 / 3, 1e-9)


def waits_are_those_of_m_m_c():
    """And those of a pool one larger or smaller are not."""
    arrivals = requests(MARKOV, SECONDS, random.Random(SEED))
    rate = len(arrivals) / SECONDS
    mean_service = sum(service for _, service in arrivals) / len(arrivals)
    for size in (5, 6):
        waits = Host(Pool(size, min_connections=size), 0.0).run(arrivals, SECONDS).waits
        mean = sum(waits) / len(waits)
        expected = queueing.mean_wait(rate, mean_service, size)
        other = queueing.mean_wait(rate, mean_service, size + 1)
        if not near(mean, expected, 0.1) or near(mean, other, 0.1):
            return False
    return True


def requests_here_are_rate_times_stay():
    """Little's law, in bursts, for any pool."""
    arrivals = requests(BURSTY, SECONDS / 5, random.Random(SEED))
    for pool in (Pool(16), Pool(32, endpoints=5), MULTIPLEX):
        # Until long after the last arrival, so that all have left.
        run = Host(pool, 0.0005).run(arrivals, SECONDS)
        if run.refused or len(run.waits) != len(arrivals) or not near(run.held, run.sojourns, 1e-6):
            return False
    return True


def short_connections_are_poisson():
    """M/G/infinity: mean and variance are rate times life."""
    load = Load(rate=2000.0, on=0, alpha=0, service=0.010, sigma=0.5)
    counts = direct(requests(load, 200, random.Random(SEED)), 0.0005, 200)[100:-1]
    mean = sum(counts) / len(counts)
    variance = sum((count - mean) ** 2 for count in counts) / len(counts)
    return near(mean, 2000 * 0.011, 0.03) and near(variance, mean, 0.12)


def bursts_have_the_mean_they_should():
    slow = replace(BURSTY, rate=5.0)
    return near(len(requests(slow, 20_000, random.Random(SEED))) / 20_000, slow.rate, 0.05)


def a_pool_stays_within_its_bounds():
    arrivals = requests(BURSTY, 60, random.Random(SEED))
    for pool in (Pool(4), Pool(8, min_connections=3, endpoints=3), MULTIPLEX):
        ticks = Host(pool, 0.0005).run(arrivals, 60).ticks
        if max(ticks) > pool.max_connections or min(ticks) < pool.min_connections:
            return False
    return True


def an_idle_connection_is_closed():
    """A burst of four, and nothing more: two rest, the others go after `idle_timeout`."""
    pool = Pool(4, min_connections=2, idle_timeout=5.0)
    ticks = Host(pool, 0.0005).run([(1.0, 0.1)] * 4, 60).ticks
    at = [ticks[math.ceil(second / TICK)] for second in (0.5, 3, 8)]
    return at == [2, 4, 2]
