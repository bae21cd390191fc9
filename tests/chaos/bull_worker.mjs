// npm bull's own worker beside the daemons: takes jobs of any name, and completes them without sending anything.
//
//   node bull_worker.mjs --redis URL --prefix P
//
// Prints the id of each job that it takes. It sends nothing, because the provider accepts an email twice whenever two
// programs that do not know each other's requests send it; what is tested is that each job has one owner.

import { setTimeout as sleep } from 'node:timers/promises';
import { option, Queue } from '../bench/bull.mjs';

const queue = new Queue('email', option('redis'), {
  prefix: option('prefix'),
  settings: { lockDuration: 8000, stalledInterval: 4000, maxStalledCount: 20 },
});
queue.on('error', () => {}); // ioredis connects again by itself
process.on('unhandledRejection', () => {}); // an outage during Bull's own housekeeping

queue.process('*', 2, async (job) => {
  process.stdout.write(`${job.id} ${job.data.to}\n`);
  await sleep(40);
});
