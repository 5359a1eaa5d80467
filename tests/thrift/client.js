// A Node client of echo.thrift: one connection after the other, every value compared. The library finds the call of a
// reply by its seqid; without it the call never ends, and Node says so with its exit status.
//
// Arguments: PORT COUNT TRANSPORT ENCODING.
const assert = require("assert");
const thrift = require("thrift");
const Echo = require("Echo");
const { Item, Refused } = require("echo_types");

const [port, count, transport, encoding] = process.argv.slice(2);
const options = {
  transport: { framed: thrift.TFramedTransport, buffered: thrift.TBufferedTransport }[transport],
  protocol: { binary: thrift.TBinaryProtocol, compact: thrift.TCompactProtocol, json: thrift.TJSONProtocol }[encoding],
};

const below = (most) => Math.floor(Math.random() * most);
const word = () => Math.random().toString(36).repeat(below(4));

function item() {
  return new Item({
    number: below(2 ** 31),
    text: word() + (below(20) ? "" : "x".repeat(20000)),
    numbers: Array.from({ length: below(20) }, () => below(2 ** 50)),
    counts: { [word()]: below(1000), [word()]: 0 - below(1000) },
    flag: below(2) === 1,
    ratio: Math.random(),
    words: Array.from({ length: below(16) }, () => [word(), word()]),
  });
}

async function echo(client) {
  const sent = item();
  const got = await client.echo(sent);
  got.numbers = got.numbers.map(Number);
  assert.deepStrictEqual({ ...got }, { ...sent });
}

async function refusal(client) {
  const why = word();
  const sent = Object.assign(item(), { number: -1, text: why });
  await assert.rejects(client.echo(sent), (error) => error instanceof Refused && error.why === why);
}

async function main() {
  for (let number = 0; number < count; number += 1) {
    const connection = thrift.createConnection("127.0.0.1", Number(port), options);
    connection.on("error", (error) => {
      throw error;
    });
    const client = thrift.createClient(Echo, connection);
    // Side by side: in multiplex the replies may change places.
    await Promise.all(number % 5 === 0 ? [echo(client), refusal(client)] : [echo(client)]);
    if (number % 5 === 1) client.note(String(number));
    connection.end();
  }
  console.log(count, "right");
  return true;
}

process.exitCode = 1;
main().then(() => (process.exitCode = 0));
