"""A Python server of echo.thrift.

Arguments: KIND TRANSPORT ENCODING. KIND is threaded, nonblocking, multiplexed or thriftpy2. Says its port, and for each
line it reads how many connections it accepted and how many notes it got.
"""

import sys
import threading

TRANSPORT, ENCODING = sys.argv[2:4]
accepted = notes = 0


class Handler:
    def __init__(self, refused):
        self.refused = refused

    def echo(self, item):
        if item.number < 0:
            raise self.refused(why=item.text)
        return item

    def note(self, text):
        global notes
        notes += 1


def count(socket):
    accept = socket.accept

    def counted():
        global accepted
        client = accept()
        accepted += 1
        return client

    socket.accept = counted


def answer():
    for _ in sys.stdin:
        print(accepted, notes, flush=True)


def apache(kind):
    from echo import Echo
    from echo.ttypes import Refused
    from thrift import TMultiplexedProcessor
    from thrift.protocol import TBinaryProtocol, TCompactProtocol, THeaderProtocol, TJSONProtocol
    from thrift.server import TNonblockingServer, TServer
    from thrift.transport import TSocket, TTransport

    transports = {
        "framed": TTransport.TFramedTransportFactory(),
        "buffered": TTransport.TBufferedTransportFactory(),
        "header": TTransport.TTransportFactoryBase(),
    }
    protocols = {
        "binary": TBinaryProtocol.TBinaryProtocolAcceleratedFactory(),
        "compact": TCompactProtocol.TCompactProtocolAcceleratedFactory(),
        "json": TJSONProtocol.TJSONProtocolFactory(),
    }
    protocol = protocols[ENCODING]
    if TRANSPORT == "header":
        protocol = THeaderProtocol.THeaderProtocolFactory()
    processor = Echo.Processor(Handler(Refused))
    if kind == "multiplexed":
        service, processor = processor, TMultiplexedProcessor.TMultiplexedProcessor()
        processor.registerProcessor("Echo", service)
    socket = TSocket.TServerSocket("127.0.0.1", 0)
    count(socket)
    if kind == "nonblocking":
        server = TNonblockingServer.TNonblockingServer(processor, socket, protocol, protocol)
        server.prepare()
    else:
        server = TServer.TThreadedServer(processor, socket, transports[TRANSPORT], protocol, daemon=True)
        socket.listen()
        socket.listen = lambda: None
    print(socket.handle.getsockname()[1], flush=True)
    threading.Thread(target=server.serve, daemon=True).start()


def thriftpy2():
    import os

    import thriftpy2 as library
    from thriftpy2.protocol import TBinaryProtocolFactory, TCompactProtocolFactory
    from thriftpy2.server import TThreadedServer
    from thriftpy2.thrift import TProcessor
    from thriftpy2.transport import TBufferedTransportFactory, TFramedTransportFactory, TServerSocket

    echo = library.load(os.path.join(os.path.dirname(__file__), "echo.thrift"), "echo_thrift")
    transports = {"framed": TFramedTransportFactory, "buffered": TBufferedTransportFactory}
    protocols = {"binary": TBinaryProtocolFactory, "compact": TCompactProtocolFactory}
    socket = TServerSocket("127.0.0.1", 0)
    count(socket)
    processor = TProcessor(echo.Echo, Handler(echo.Refused))
    server = TThreadedServer(
        processor,
        socket,
        iprot_factory=protocols[ENCODING](),
        itrans_factory=transports[TRANSPORT](),
        daemon=True,
    )
    socket.listen()
    socket.listen = lambda: None
    print(socket.sock.getsockname()[1], flush=True)
    threading.Thread(target=server.serve, daemon=True).start()


kind = sys.argv[1]
thriftpy2() if kind == "thriftpy2" else apache(kind)
answer()
