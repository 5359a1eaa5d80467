// What the servers and clients of node have in common.
//
// `server` prints its port, then on each line of standard input the number of connections it has accepted; ends with
// standard input. `client PORT COUNT SECONDS` makes so many connections, eight at a time, and checks every value; an
// answer must come within so many seconds.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const readline = require('readline');

const later = (value) => new Promise((done) => setTimeout(() => done(value), Math.random() * 3));

// The methods of the servers.
exports.multiply = (a, b, text) => later({ product: a * b, text: `<${text}>` });

exports.serve = (server) => {
  let accepted = 0;
  server.on('connection', () => (accepted += 1));
  server.listen(0, '127.0.0.1', () => {
    console.log(server.address().port);
    readline.createInterface({ input: process.stdin }).on('line', () => console.log(accepted)).on('close', () => process.exit());
  });
};

// What to ask, and the right answer.
exports.question = () => {
  const a = crypto.randomInt(1 << 25);
  const b = crypto.randomInt(1 << 25);
  const text = `é"\\\n\u2028😀 ${crypto.randomUUID()}`;
  return { asked: [a, b, text], right: { product: a * b, text: `<${text}>` } };
};

exports.check = (found, right) => assert.deepStrictEqual(found, right);

// Asks so often; the process fails with the first answer that is not right, or that does not come.
exports.run = async (ask) => {
  const [count, seconds] = process.argv.slice(4).map(Number);
  let left = count;
  const worker = async () => {
    while (left-- > 0) {
      let late;
      const limit = new Promise((_, fail) => (late = setTimeout(() => fail(new Error('no answer')), seconds * 1000)));
      await Promise.race([ask(), limit]);
      clearTimeout(late);
    }
  };
  await Promise.all(Array.from({ length: 8 }, worker)).catch((error) => {
    console.error(error);
    process.exit(1);
  });
};
