// The same conversations on Node's cluster, which has no primary function and no calls: one-way-up, one-way-down and
// `echo <payload> <at once>`. SERIALIZATION is Node's own setting, json or advanced; SPAN is how many milliseconds count.
'use strict';

const cluster = require('node:cluster');

const [program, payload, atOnce] = process.argv.slice(2);

// A message of two 64-bit numbers, in the form that each serialization takes.
const small = { hit: { a: 1, b: 7 } };
const payloads = { string: 'twelve chars', object: { action: 'increment', level: 9000 } };

const programs = {
  'one-way-up': {
    primary: (worker) => worker.on('message', taker('up')),
    worker: () => flood((message, sent) => process.send(message, sent)),
  },
  'one-way-down': {
    primary: (worker) => flood((message, sent) => worker.send(message, sent)),
    worker: () => process.on('message', taker('down')),
  },
  echo: {
    primary: (worker) => askAndAsk(worker, payloads[payload], Number(atOnce)),
    worker: () => process.on('message', (message) => process.send(message)),
  },
};

if (cluster.isPrimary) {
  cluster.setupPrimary({ serialization: process.env.SERIALIZATION });
  const worker = cluster.fork();
  worker.on('online', () => programs[program].primary(worker));
  process.on('SIGTERM', () => process.exit());
} else {
  programs[program].worker();
}

// Sends without end, and the next lot once the last of this one is written: without a pause nothing would ever leave the process.
function flood(send) {
  const lot = 100;
  for (let count = 1; count < lot; count++) send(small);
  send(small, () => flood(send));
}

function taker(name) {
  const lap = stopwatch(name, 64);
  return () => void lap();
}

function askAndAsk(worker, message, atOnce) {
  const lap = stopwatch('echo', atOnce);
  let missing = 0;
  const ask = () => {
    missing = atOnce;
    for (let count = 0; count < atOnce; count++) worker.send(message);
  };
  worker.on('message', () => {
    if (lap() && --missing === 0) ask();
  });
  ask();
}

// As stopwatch.rs: a quarter of the span first, in which nothing counts. Says false once the time is over.
function stopwatch(name, stride) {
  const span = Number(process.env.SPAN);
  let [state, since, operations, nextLook] = ['warming up', performance.now(), 0, 0];
  return () => {
    if (++operations < nextLook) return true;
    nextLook = operations + stride;
    const elapsed = performance.now() - since;
    if (state === 'warming up' && elapsed >= span / 4) {
      console.log(`begin ${name}`);
      [state, since, operations, nextLook] = ['running', performance.now(), 0, stride];
    } else if (state === 'running' && elapsed >= span) {
      console.log(`end ${name} ${operations} ${Math.round(elapsed * 1e6)}`);
      state = 'over';
    }
    return state !== 'over';
  };
}
