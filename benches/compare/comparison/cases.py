"""What is compared: one entry each, a load and who bears it. All of it runs interleaved in each repetition."""

from dataclasses import dataclass

PEERS = ("haproxy", "nginx", "envoy")
ENVOYS = ("envoy thrift_proxy", "envoy thrift_proxy, passthrough")


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    contenders: tuple
    protocol: str = "frame-id"
    per_connection: int = 1  # requests
    unix: bool = False
    many: int = 1  # times the usual number of requests


CASES = {case.name: case for case in [
    Case("short", "One request a connection, 64-byte frames with an id, TCP", (
        "direct", "floor exclusive", "warmline exclusive", "floor multiplex", "warmline multiplex",
        "warmline multiplex, 2 workers", *PEERS)),
    Case("client closes", "The same, the client closes first", (
        "floor multiplex, client closes", "warmline multiplex, client closes",
        "warmline multiplex, client closes, 2 workers")),
    Case("unix", "One request a connection on a unix socket", ("floor multiplex", "warmline multiplex"), unix=True),
    Case("persistent", "Persistent clients: 1,000 requests a connection", (
        "direct", "floor multiplex, client closes", "warmline multiplex, client closes", *PEERS),
        per_connection=1000, many=5),
    Case("line", "One request a connection, 64-byte lines, TCP", ("floor pipeline", "warmline pipeline"),
         protocol="line"),
]}

# Calls of Thrift, beside a proxy that pools them: of the command `thrift`.
THRIFT = {case.name: case for case in [
    Case("one call", "One call a connection", (
        "direct", "floor exclusive", "warmline exclusive", "warmline multiplex", "warmline exclusive, client closes",
        "warmline multiplex, client closes", *ENVOYS), protocol="thrift"),
    Case("ten calls", "Ten calls a connection", (
        "direct", "floor exclusive, client closes", "warmline exclusive, client closes",
        "warmline multiplex, client closes", *ENVOYS), protocol="thrift", per_connection=10, many=2),
]}

EVERY = CASES | THRIFT

# Whose memory is looked at, under the load of this case.
MEMORY = ("persistent", ("floor multiplex, client closes", "warmline multiplex, client closes", *PEERS))

# Whose system calls are counted.
SYSCALLS = (
    ("short", ("floor exclusive", "warmline exclusive", "floor multiplex", "warmline multiplex", *PEERS)),
    ("client closes", ("floor multiplex, client closes", "warmline multiplex, client closes")),
    ("unix", ("floor multiplex", "warmline multiplex")),
    ("persistent", ("floor multiplex, client closes", "warmline multiplex, client closes")),
    ("line", ("floor pipeline", "warmline pipeline")),
)
THRIFT_SYSCALLS = tuple((name, case.contenders[1:]) for name, case in THRIFT.items())
