"""A Python client of echo.thrift: one connection after the other, every value and every seqid compared.

Arguments: LIBRARY PORT COUNT TRANSPORT ENCODING. LIBRARY is accelerated, plain, multiplexed or thriftpy2.
"""

import random
import sys

LIBRARY, PORT, COUNT, TRANSPORT, ENCODING = sys.argv[1:6]
random.seed()


def values():
    word = lambda: "".join(random.choices("abcdefgh", k=random.randint(0, 30)))
    return {
        "number": random.randint(0, 2**31 - 1),
        "text": word() * random.choice([1, 1, 1, 500]),
        "numbers": [random.randint(-(2**63), 2**63 - 1) for _ in range(random.randint(0, 20))],
        "counts": {word(): random.randint(-(2**31), 2**31 - 1) for _ in range(random.randint(0, 5))},
        "flag": random.random() < 0.5,
        "ratio": random.random(),
        "words": [[word() for _ in range(random.randint(0, 3))] for _ in range(random.randint(0, 16))],
    }


def some_seqid():
    return random.choice([0, 1, random.randint(0, 2**31 - 1)])


def compare(seqid, sent):
    """The libraries do not look at the seqid of a reply."""
    assert seqid == sent, f"seqid {seqid} where {sent} was sent"


def checked(protocol):
    write, read = protocol.writeMessageBegin, protocol.readMessageBegin
    sent = None

    def write_begin(name, kind, _):
        nonlocal sent
        sent = some_seqid()
        write(name, kind, sent)

    def read_begin():
        name, kind, seqid = read()
        compare(seqid, sent)
        return name, kind, seqid

    protocol.writeMessageBegin, protocol.readMessageBegin = write_begin, read_begin
    return protocol


def apache():
    from echo import Echo
    from echo.ttypes import Item, Refused
    from thrift.protocol import TBinaryProtocol, TCompactProtocol, THeaderProtocol, TJSONProtocol
    from thrift.protocol import TMultiplexedProtocol
    from thrift.transport import TSocket, THeaderTransport, TTransport

    plain = LIBRARY == "plain"
    if not plain:
        # Without its extension the library would quietly do as if it were plain.
        from thrift.protocol import fastbinary
    transports = {
        "framed": TTransport.TFramedTransport,
        "buffered": TTransport.TBufferedTransport,
        "header": lambda socket: socket,
    }
    protocols = {
        "binary": TBinaryProtocol.TBinaryProtocol if plain else TBinaryProtocol.TBinaryProtocolAccelerated,
        "compact": TCompactProtocol.TCompactProtocol if plain else TCompactProtocol.TCompactProtocolAccelerated,
        "json": TJSONProtocol.TJSONProtocol,
        "old": lambda transport: TBinaryProtocol.TBinaryProtocol(transport, strictRead=False, strictWrite=False),
    }
    subprotocol = THeaderTransport.THeaderSubprotocolID

    def connect():
        socket = TSocket.TSocket("127.0.0.1", int(PORT))
        socket.setTimeout(30_000)
        transport = transports[TRANSPORT](socket)
        if TRANSPORT == "header":
            default = subprotocol.COMPACT if ENCODING == "compact" else subprotocol.BINARY
            protocol = THeaderProtocol.THeaderProtocol(transport, [THeaderTransport.THeaderClientType.HEADERS], default)
        else:
            protocol = protocols[ENCODING](transport)
        transport.open()
        if LIBRARY == "multiplexed":
            protocol = TMultiplexedProtocol.TMultiplexedProtocol(protocol, "Echo")
        return Echo.Client(checked(protocol)), transport

    return connect, Item, Refused


def thriftpy2():
    import os

    import thriftpy2 as library
    from thriftpy2.protocol import TBinaryProtocol, TCompactProtocol
    from thriftpy2.thrift import TClient
    from thriftpy2.transport import TBufferedTransport, TFramedTransport, TSocket

    echo = library.load(os.path.join(os.path.dirname(__file__), "echo.thrift"), "echo_thrift")
    transports = {"framed": TFramedTransport, "buffered": TBufferedTransport}
    base = {"binary": TBinaryProtocol, "compact": TCompactProtocol}[ENCODING]

    class Checked(base):
        def write_message_begin(self, name, kind, _):
            self.sent = some_seqid()
            super().write_message_begin(name, kind, self.sent)

        def read_message_begin(self):
            name, kind, seqid = super().read_message_begin()
            compare(seqid, self.sent)
            return name, kind, seqid

    def connect():
        transport = transports[TRANSPORT](TSocket("127.0.0.1", int(PORT)))
        transport.open()
        return TClient(echo.Echo, Checked(transport)), transport

    return connect, echo.Item, echo.Refused


def main():
    connect, Item, Refused = thriftpy2() if LIBRARY == "thriftpy2" else apache()
    for number in range(int(COUNT)):
        client, transport = connect()
        item = Item(**values())
        assert client.echo(item) == item, "a reply of somebody else"
        if number % 5 == 0:
            why = str(random.random())
            try:
                client.echo(Item(number=-1, text=why))
                raise AssertionError("not refused")
            except Refused as refused:
                assert refused.why == why, "the exception of somebody else"
        if number % 5 == 1:
            client.note(str(number))
        transport.close()
    print(f"{COUNT} right")


main()
