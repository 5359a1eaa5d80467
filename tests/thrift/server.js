// An asynchronous server of echo.thrift: each reply takes its own time, so those on one connection come in any order.
//
// Arguments: TRANSPORT ENCODING. Says its port, and for each line it reads how many connections it accepted and how
// many notes it got.
const thrift = require("thrift");
const Echo = require("Echo");
const { Refused } = require("echo_types");

const [transport, encoding] = process.argv.slice(2);
let accepted = 0;
let notes = 0;

const handler = {
  echo(item, done) {
    const refused = item.number < 0 ? new Refused({ why: item.text }) : null;
    setTimeout(() => done(refused, item), Math.random() * 5);
  },
  note() {
    notes += 1;
  },
};

const server = thrift.createServer(Echo, handler, {
  transport: { framed: thrift.TFramedTransport, buffered: thrift.TBufferedTransport }[transport],
  protocol: { binary: thrift.TBinaryProtocol, compact: thrift.TCompactProtocol, json: thrift.TJSONProtocol }[encoding],
});
server.on("connection", () => (accepted += 1));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("data", () => console.log(accepted, notes));
