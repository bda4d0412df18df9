// The same app on Node's cluster. ADDR says where it listens, WORKERS how many serve, and NODE_CLUSTER_SCHED_POLICY, which is
// Node's own, who accepts: the primary, in turn (rr), or whichever worker the kernel wakes (none).
'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  for (let count = Number(process.env.WORKERS); count > 0; count--) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const [host, port] = process.env.ADDR.split(':');
  http.createServer(answer).listen(Number(port), host);
}

function answer(request, response) {
  switch (request.url) {
    case '/':
      return say(response, 200, `hello from pid ${process.pid}\n`);
    case '/who':
      return say(response, 200, String(process.pid));
    case '/generate-report':
      return say(response, 200, report());
    default:
      return say(response, 404, '');
  }
}

// As many headers as axum sends by itself.
function say(response, status, body) {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

// Computes for 200 ms without a pause.
function report() {
  const end = performance.now() + 200;
  let primes = 0;
  for (let number = 2; performance.now() < end; number++) if (isPrime(number)) primes++;
  return `the first ${primes} primes\n`;
}

function isPrime(number) {
  for (let divisor = 2; divisor * divisor <= number; divisor++) if (number % divisor === 0) return false;
  return true;
}
