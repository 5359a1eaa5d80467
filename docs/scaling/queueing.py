"""What theory says of the simplest cases: the simulation is tested against it."""


def erlang_c(arrivals, service, servers):
    """The share of requests that wait, of Poisson arrivals a second and an exponential service in seconds."""
    load = arrivals * service
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    busy = load / servers
    return blocked / (1 - busy * (1 - blocked))


def mean_wait(arrivals, service, servers):
    """Seconds in the queue of M/M/c, over all requests."""
    return erlang_c(arrivals, service, servers) * service / (servers - arrivals * service)
