// node presets_client.js WHAT dubbo|bolt PORT NUMBER: exits with 0 if everything was as it must be.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const readline = require('node:readline');
const { DirectlyDubbo, java } = require('apache-dubbo-js');
const { call, connect, protocols } = require('./codec');

const [what, name, port, number] = process.argv.slice(2);
const { library, oneway } = protocols[name];
assert.ok(number > 0, 'nothing to do');
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// No two are alike. Every twentieth is longer than warmline stores before it sends.
const word = i => `${i}-${crypto.randomUUID()}${i % 20 === 19 ? 'x'.repeat(100_000) : ''}`;

const ask = (connection, method, value) => connection.writeRequest(call(method, value));

async function echo(connection, i) {
  const value = word(i);
  const { data } = await ask(connection, 'echo', value);
  assert.ifError(data.error);
  assert.strictEqual(data.appResponse, value.toUpperCase());
}

// A connection of its own for `work`.
async function briefly(work, options) {
  const connection = await connect(library, port, options);
  try {
    return await work(connection);
  } finally {
    await connection.close();
  }
}

// `number` times, twenty at a time.
async function crowd(work) {
  let next = 0;
  const one = async () => {
    while (next < number) await work(next++);
  };
  await Promise.all(Array.from({ length: 20 }, one));
}

const short = i => briefly(async connection => {
  // Their ids are those of another process, which counts from 1 as well.
  await Promise.all([echo(connection, i), echo(connection, i + 1)]);
  if (i % 10 === 0) {
    const { data } = await ask(connection, 'fail', 'x');
    assert.match(String(data.error), /it failed/);
  }
  if (i % 7 === 0) {
    const beat = await connection.writeHeartbeat({ timeout: 60_000 });
    assert.strictEqual(beat.packetType, 'heartbeat_ack');
  }
});

async function refused(connection, method = 'echo') {
  const { data } = await ask(connection, method, 'x');
  assert.ok(data.error instanceof Error);
  const words = name === 'dubbo' ? /^warmline: no reply from server$/ : /^Server exception/;
  assert.match(data.error.message, words);
}

// The other library for Dubbo. It has no way to close, and takes a close for a reason to wait.
async function other(i, check) {
  const dubbo = DirectlyDubbo.from({ dubboAddress: `127.0.0.1:${port}`, dubboVersion: '2.0.2', dubboInvokeTimeout: 60 });
  const methods = { echo: value => [java.String(value)] };
  const service = dubbo.proxyService({ dubboInterface: 'test.Echo', version: '1.0', methods });
  const value = word(i);
  check(await service.echo(value), value);
  dubbo._socketWorker._retry = 0;
  dubbo._socketWorker._socket.destroy();
}

const work = {
  short: () => crowd(short),
  other: () => crowd(i => other(i, ({ err, res }, value) => {
    assert.ifError(err);
    assert.strictEqual(res, value.toUpperCase());
  })),
  other_refused: () => crowd(i => other(i, ({ err }) => assert.match(err.message, /warmline: no reply from server/))),
  // Bolt 2, with and without its checksum: closed, and not left to wait.
  version2: () => crowd(async i => {
    const connection = await connect(library, port);
    connection._encoder.protocolType = 'bolt2';
    connection._encoder.crcEnable = i % 2 === 0;
    await assert.rejects(ask(connection, 'echo', 'x'), /closed|ECONNRESET/);
  }),
  refused: () => crowd(() => briefly(connection => refused(connection))),
  oneway: () => crowd(i => briefly(async connection => {
    oneway(connection, 'note', word(i));
    await echo(connection, i);
  })),
  // As many neighbours on connections that stay, until a line comes.
  busy: async () => {
    const all = await Promise.all(Array.from({ length: number }, () => connect(library, port)));
    let done = false;
    const each = async connection => {
      for (let i = 0; !done; i++) await echo(connection, i);
    };
    const running = all.map(each);
    console.log('busy');
    await lines.next();
    done = true;
    await Promise.all(running);
    await Promise.all(all.map(connection => connection.close()));
  },
  // Of as many calls that the server holds back the first to end is refused. The others come after that.
  full: async () => {
    const all = await Promise.all(Array.from({ length: number }, () => connect(library, port)));
    const calls = all.map(connection => ask(connection, 'hold', 'x'));
    const { data } = await Promise.race(calls);
    assert.ok(data.error instanceof Error);
    console.log('refused');
    const ends = await Promise.all(calls);
    assert.strictEqual(ends.filter(({ data }) => data.appResponse === 'X').length, number - 1);
    await Promise.all(all.map(connection => connection.close()));
  },
};

work[what]().then(() => process.exit(0), fault => {
  console.error(fault);
  console.log(fault.code);
  process.exit(1);
});
