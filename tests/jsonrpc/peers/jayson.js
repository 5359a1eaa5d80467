// A server and a client of jayson over TCP. Arguments: as peer.js has them.
'use strict';
const jayson = require('jayson/promise');
const peer = require('./peer');

const [, , role, port] = process.argv;

const server = new jayson.Server({
  multiply: (args) => peer.multiply(...args),
  fail: async (args) => {
    throw { code: -1, message: `no ${args[2]}` };
  },
});

// One connection for each: a call, an error, and a batch with a notification in it.
async function ask() {
  const client = jayson.Client.tcp({ host: '127.0.0.1', port: Number(port) });
  const { asked, right } = peer.question();
  const reply = await client.request('multiply', asked, 'first');
  // It does not look at the id itself.
  peer.check([reply.id, reply.result], ['first', right]);
  const failed = await client.request('fail', asked);
  peer.check(failed.error, { code: -1, message: `no ${asked[2]}` });
  const batch = [
    client.request('multiply', asked, undefined, false),
    client.request('multiply', asked, null, false),
    client.request('fail', asked, 'mine', false),
  ];
  const replies = await client.request(batch);
  const find = (id) => replies.filter((one) => one.id === id);
  peer.check(replies.length, 2);
  peer.check(find('mine')[0].error.message, `no ${asked[2]}`);
  peer.check(find(batch[0].id)[0].result, right);
}

if (role === 'server') {
  peer.serve(server.tcp());
} else {
  peer.run(ask);
}
