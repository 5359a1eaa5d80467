// The two protocols of `presets_server.js` and `presets_client.js`, as their own libraries speak them.
'use strict';

const net = require('node:net');
const Connection = require('connection');
const bolt = require('sofa-bolt-node');
const dubbo = require('js-remoting-for-apache-dubbo');
const DubboInvocation = require('js-remoting-for-apache-dubbo/lib/protocol/invocation');
const DubboRequest = require('js-remoting-for-apache-dubbo/lib/protocol/request');

const SERVICE = 'test.Echo';
// The libraries log what they do not expect; a test sees it in what does not come.
const logger = { info() {}, warn() {}, error() {} };

// What a call of `method` is to either library. The timeout is longer than warmline's.
const call = (method, ...args) => ({
  serverSignature: `${SERVICE}:1.0`,
  methodName: method,
  args,
  methodArgSigs: args.map(() => 'java.lang.String'),
  requestProps: {},
  timeout: 60_000,
});

// This library has no call for one-way requests; its codec has.
function dubboOneway(connection, method, ...args) {
  const request = new DubboRequest();
  request.isTwoWay = false;
  request.data = new DubboInvocation({ methodName: method, args, attachments: { path: SERVICE } });
  connection.socket.write(request.encode());
}

// "Nothing new here", as a server says before it goes.
function dubboReadOnly(connection) {
  const event = new DubboRequest();
  event.event = 'R';
  event.isTwoWay = false;
  connection.socket.write(event.encode());
}

const protocols = {
  dubbo: { library: dubbo, oneway: dubboOneway, readOnly: dubboReadOnly },
  bolt: { library: bolt, oneway: (connection, ...words) => connection.oneway(call(...words)) },
};

const wrap = (library, socket, options = {}) =>
  new Connection({ socket, logger, protocol: library, protocolOptions: options, sentReqs: new Map() });

async function connect(library, port, options) {
  const connection = wrap(library, net.connect(port, '127.0.0.1'), options);
  await connection.ready();
  return connection;
}

module.exports = { call, connect, logger, protocols, wrap };
