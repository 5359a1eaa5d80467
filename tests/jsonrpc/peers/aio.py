"""A server and a client of aiorpcX.

`server` prints its port, then on each line of standard input the number of connections it has accepted; ends with
standard input. `client PORT COUNT SECONDS` makes so many connections, eight at a time, and checks every value; an
answer must come within so many seconds.
"""

import asyncio
import random
import sys
import uuid

import aiorpcx


class Session(aiorpcx.RPCSession):
    accepted = 0
    # One connection carries what many clients ask: none of them is to pay for the others.
    cost_hard_limit = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Session.accepted += 1

    async def multiply(self, a, b, text):
        await asyncio.sleep(random.random() / 300)
        return {"product": a * b, "text": f"<{text}>"}

    async def fail(self, a, b, text):
        raise aiorpcx.RPCError(-1, f"no {text}")

    async def handle_request(self, request):
        handler = {"multiply": self.multiply, "fail": self.fail}.get(request.method)
        return await aiorpcx.handler_invocation(handler, request)()


async def serve():
    server = await aiorpcx.serve_rs(Session, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(Session.accepted, flush=True)


async def ask(port):
    a, b, text = random.getrandbits(60), random.getrandbits(60), f'é"\\\n\u2028😀 {uuid.uuid4()}'
    right = {"product": a * b, "text": f"<{text}>"}
    async with aiorpcx.connect_rs("127.0.0.1", port) as session:
        await session.send_notification("multiply", [a, b, text])
        calls = [session.send_request("multiply", [a, b, text]), session.send_request("multiply", {"a": 1, "b": a, "text": text})]
        first, second = await asyncio.gather(*calls)
        assert first == right, (first, right)
        assert second == {"product": a, "text": right["text"]}, second
        try:
            await session.send_request("fail", [a, b, text])
            raise AssertionError("no error")
        except aiorpcx.RPCError as error:
            assert (error.code, error.message) == (-1, f"no {text}"), error
        async with session.send_batch() as batch:
            batch.add_request("multiply", [a, b, text])
            batch.add_notification("multiply", [b, a, text])
            batch.add_request("fail", [a, b, text])
            batch.add_request("multiply", [0, b, text])
        one, two, three = batch.results
        assert (one, three["product"]) == (right, 0), batch.results
        assert two.message == f"no {text}", two


async def main():
    port, left = int(sys.argv[2]), iter(range(int(sys.argv[3])))

    async def worker():
        for _ in left:
            await asyncio.wait_for(ask(port), int(sys.argv[4]))

    await asyncio.gather(*(worker() for _ in range(8)))


asyncio.run(serve() if sys.argv[1] == "server" else main())
