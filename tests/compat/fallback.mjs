// What FlowState's backend does when Redis fails, with npm bull: it counts the errors of the queue, sends directly from
// the limit on, and hopes for `ready`. Reads one command a line, answers with one JSON line.
//
// argv: URL of Redis, prefix, the limit as it is written in the backend's source.

import { createInterface } from 'node:readline';
import Queue from 'bull';

const [url, prefix, limit] = process.argv.slice(2);
const maxErrors = limit === 'Number.POSITIVE_INFINITY' ? Number.POSITIVE_INFINITY : Number(limit);
const { hostname, port } = new URL(url);
const redis = { host: hostname, port: Number(port), maxRetriesPerRequest: 3, retryStrategy: (times) => Math.min(times * 50, 2000) };
const queue = new Queue('email', { prefix, redis });
let useQueue = true;
let inARow = 0;
let errors = 0;
let readies = 0;

function countError() {
  errors += 1;
  inARow += 1;
  if (inARow >= maxErrors) useQueue = false;
}

queue.on('error', countError);
queue.on('ready', () => {
  readies += 1;
  useQueue = true;
});

const commands = {
  async add() {
    if (useQueue) {
      try {
        await queue.add('otp', { type: 'otp', to: 'ada@example.org', context: { otpCode: '123456' } }, { priority: 1 });
        inARow = 0;
        return 'queue';
      } catch {
        countError();
      }
    }
    return 'direct';
  },
  state: () => ({ connected: queue.client.status === 'ready', errors, readies }),
};

await queue.isReady();
createInterface({ input: process.stdin })
  .on('line', async (line) => process.stdout.write(`${JSON.stringify(await commands[line]())}\n`))
  .on('close', () => process.exit(0));
