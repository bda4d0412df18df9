// Two workers that serve on ADDR. COUNTS=1 makes them tell the primary of each request; nothing else is different.
'use strict';

const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  let hits = 0;
  for (let count = 0; count < 2; count++) cluster.fork().on('message', () => hits++);
} else {
  const [host, port] = process.env.ADDR.split(':');
  const counts = process.env.COUNTS === '1';
  http.createServer((request, response) => {
    if (counts) process.send({ hit: true });
    const body = `hello from worker ${cluster.worker.id}\n`;
    response.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  }).listen(Number(port), host);
}
