// A server and a client of vscode-jsonrpc over TCP, with headers. Arguments: as peer.js has them; the client `owner`
// answers what the server asks, and hears what it tells.
'use strict';
const net = require('net');
const rpc = require('vscode-jsonrpc/node');
const peer = require('./peer');

const [, , role, port] = process.argv;

function connection(socket) {
  const talk = rpc.createMessageConnection(new rpc.StreamMessageReader(socket), new rpc.StreamMessageWriter(socket));
  talk.onError(() => {});
  return talk;
}

function serve(socket) {
  const talk = connection(socket);
  talk.onRequest('multiply', (a, b, text) => {
    // Nobody asked for these.
    talk.sendNotification('progress', 1);
    talk.sendRequest('configuration').then((it) => talk.sendNotification('configured', it)).catch(() => {});
    return peer.multiply(a, b, text);
  });
  talk.onRequest('fail', (a, b, text) => new rpc.ResponseError(-1, `no ${text}`));
  talk.onNotification('note', () => {});
  socket.on('error', () => {});
  talk.listen();
}

// One connection: a notification, two calls at a time, an error.
async function ask() {
  const socket = net.connect(Number(port), '127.0.0.1');
  const talk = connection(socket);
  const closed = new Promise((_, fail) => talk.onClose(() => fail(new Error('closed'))));
  closed.catch(() => {});
  talk.listen();
  const { asked, right } = peer.question();
  await talk.sendNotification('note', ...asked);
  const calls = [talk.sendRequest('multiply', ...asked), talk.sendRequest('multiply', 1, asked[0], asked[2])];
  const [first, second] = await Promise.race([Promise.all(calls), closed]);
  peer.check(first, right);
  peer.check(second, { product: asked[0], text: right.text });
  const failed = await Promise.race([talk.sendRequest('fail', ...asked).catch((error) => error), closed]);
  peer.check([failed.code, failed.message], [-1, `no ${asked[2]}`]);
  talk.dispose();
  socket.destroy();
}

// One connection that the server asks and tells, too.
async function own() {
  const socket = net.connect(Number(port), '127.0.0.1');
  const talk = connection(socket);
  const { asked, right } = peer.question();
  const told = new Promise((done) => talk.onNotification('progress', done));
  const configured = new Promise((done) => talk.onNotification('configured', done));
  const closed = new Promise((_, fail) => talk.onClose(() => fail(new Error('closed'))));
  closed.catch(() => {});
  talk.onRequest('configuration', () => right);
  talk.listen();
  const all = Promise.all([talk.sendRequest('multiply', ...asked), told, configured]);
  peer.check(await Promise.race([all, closed]), [right, 1, right]);
  talk.dispose();
  socket.destroy();
}

if (role === 'server') {
  peer.serve(net.createServer(serve));
} else {
  peer.run(role === 'owner' ? own : ask);
}
