"""Who is compared: one line each. A new peer is a line in PROGRAMS, a line in CONTENDERS and a template in configs/."""

from dataclasses import dataclass, field

# Ports inside a run's own network namespace.
LISTEN, UPSTREAM = "127.0.0.1:7600", "127.0.0.1:9090"

# How warmline is told each protocol of the tools: its protocol, and how that is laid out.
LAYOUTS = {
    "frame": ("frame", "length = { offset = 0, size = 4, adjust = 4 }"),
    "frame-id": ("frame", "length = { offset = 0, size = 4, adjust = 4 }\nid = { offset = 4, size = 8 }"),
    "line": ("line", ""),
    "thrift": ("thrift", ""),
}

# Whose replies are not their requests: the server has to know.
ANSWERED = {"thrift"}

# What runs each contender, and what prints its version. $program is where it was found.
PROGRAMS = {
    "floor": ("$program --listen $listen --to $upstream --protocol $speaks --mode $mode --connections $connections"
              " --close $close", None),
    "warmline": ("$program run --config $config", "--version"),
    "haproxy": ("$program -db -f $config", "-v"),
    "nginx": ("$program -p $dir -c $config", "-v"),
    "envoy": ("$program -c $config --concurrency 1 --disable-hot-restart -l error", "--version"),
}

TEMPLATES = {"warmline": "warmline.toml", "haproxy": "haproxy.cfg", "nginx": "nginx.conf", "envoy": "envoy.yaml"}


@dataclass(frozen=True)
class Contender:
    name: str
    program: str | None  # None: no proxy, clients connect to the upstream server
    what: str
    values: dict = field(default_factory=dict)
    speaks: dict = field(default_factory=dict)  # in place of a case's protocol, where the bytes are the same
    descriptors: int = 2  # a client holds; one where connections to the server are shared
    workers: int = 1  # threads of warmline; more than one have the core of load and server, too
    template: str | None = None  # in place of its program's


def pooled(program, mode, connections, served, what, workers=1):
    """The floor and warmline. `served`: the proxy closes after one reply (FIN+RST)."""
    speaks = {"frame-id": "frame"} if mode == "exclusive" else {}
    if program == "floor":
        speaks["thrift"] = "frame"
    values = {"mode": mode, "connections": connections, "one_shot": str(served).lower(),
              "close": "reset" if served else "client", "workers": workers}
    name = f"{program} {mode}" + ("" if served else ", client closes") + (f", {workers} workers" if workers > 1 else "")
    return Contender(name, program, what, values, speaks, descriptors=1, workers=workers)


CONTENDERS = {contender.name: contender for contender in [
    Contender("direct", None, "no proxy"),
    pooled("floor", "exclusive", 32, True, "32 connections, FIN+RST"),
    pooled("warmline", "exclusive", 32, True, "32 connections, `one_shot`"),
    pooled("floor", "exclusive", 32, False, "32 connections, RST after the client's FIN"),
    pooled("warmline", "exclusive", 32, False, "32 connections"),
    pooled("floor", "multiplex", 1, True, "one connection, FIN+RST"),
    pooled("warmline", "multiplex", 1, True, "one connection, `one_shot`"),
    pooled("floor", "multiplex", 1, False, "one connection, RST after the client's FIN"),
    pooled("warmline", "multiplex", 1, False, "one connection"),
    pooled("warmline", "multiplex", 1, True, "one connection, `one_shot`, both cores", workers=2),
    pooled("warmline", "multiplex", 1, False, "one connection, both cores", workers=2),
    pooled("floor", "pipeline", 1, True, "one connection, FIN+RST"),
    pooled("warmline", "pipeline", 1, True, "one connection, `one_shot`"),
    Contender("haproxy", "haproxy", "TCP mode, a connect per client"),
    Contender("nginx", "nginx", "stream module, a connect per client"),
    Contender("envoy", "envoy", "tcp_proxy, a connect per client"),
    *(Contender(f"envoy thrift_proxy{name}", "envoy", f"at most 32 connections{what}",
                {"connections": 32, "passthrough": str(bool(name)).lower()}, descriptors=1, template="envoy-thrift.yaml")
      for name, what in (("", ""), (", passthrough", ", `payload_passthrough`"))),
]}
