// node presets_server.js dubbo|bolt [swap|sofa]: answers in capitals, in any order. Prints its port, then one line for
// each line on stdin. With `swap` it answers each two requests of a connection with each other's ids.
// With `sofa` it is the server of SOFA RPC, which answers one-way calls as well.
'use strict';

const net = require('node:net');
const readline = require('node:readline');
const { RpcServer } = require('sofa-rpc-node').server;
const { logger, protocols, wrap } = require('./codec');

const [name, variant] = process.argv.slice(2);
const { library, readOnly } = protocols[name];
const open = new Set();
const counts = { accepted: 0, notes: 0, heartbeats: 0 };
let released;
const release = new Promise(resolve => { released = resolve; });

async function answer(connection, request) {
  const { methodName, args } = request.data;
  if (methodName === 'note') {
    counts.notes += 1;
    return;
  }
  if (methodName === 'hold') await release;
  const failed = methodName === 'fail';
  // Replies overtake each other.
  await new Promise(done => setTimeout(done, Math.random() * 4));
  const appResponse = failed ? null : args[0].toUpperCase();
  await connection.writeResponse(request, { isError: failed, errorMsg: failed ? 'it failed' : null, appResponse });
}

function serve(socket) {
  counts.accepted += 1;
  socket.setNoDelay(true);
  const connection = wrap(library, socket);
  open.add(connection);
  let held;
  connection.on('request', request => {
    if (variant !== 'swap') return answer(connection, request);
    if (!held) { held = request; return; }
    const [first, second] = [held, request];
    held = undefined;
    answer(connection, { ...first, packetId: second.packetId });
    answer(connection, { ...second, packetId: first.packetId });
  });
  connection.on('heartbeat', heartbeat => {
    counts.heartbeats += 1;
    connection.writeHeartbeatAck(heartbeat);
  });
  connection.on('close', () => open.delete(connection));
}

const commands = {
  count: () => counts,
  open: () => open.size,
  release: () => released() ?? 'released',
  // Each is answered under its own id, or this never ends.
  heartbeats: async number => {
    const one = connection => connection.writeHeartbeat({ timeout: 60_000 });
    const all = [...open].flatMap(connection => Array.from({ length: number }, () => one(connection)));
    const answers = await Promise.all(all);
    return answers.filter(answer => answer.packetType === 'heartbeat_ack').length;
  },
  readonly: () => {
    const all = [...open];
    all.forEach(readOnly);
    return all.length;
  },
};

async function sofa() {
  const server = new RpcServer({ logger, host: '127.0.0.1', port: 0 });
  server.on('connection', () => { counts.accepted += 1; });
  server.addService({ interfaceName: 'test.Echo' }, {
    async echo(value) { return value.toUpperCase(); },
    async note() { counts.notes += 1; },
  });
  await server.start();
  console.log(server._servers[0].address().port);
}

if (variant === 'sofa') sofa();
else {
  const server = net.createServer(serve).listen(0, '127.0.0.1', () => console.log(server.address().port));
}
readline.createInterface({ input: process.stdin })
  .on('line', async line => {
    const [command, ...words] = line.split(' ');
    console.log(JSON.stringify(await commands[command](...words.map(Number))));
  })
  .on('close', () => process.exit(0));
