// npm bull's own worker on the jobs of the benchmark: drains a queue with a no-op handler and says how long it took.
//
//   node bull_peer.mjs --redis URL --prefix P --jobs N [--concurrency C] [--queue email]
//
// Prints {"jobs", "seconds", "rate"}. The time runs from the first run to the last completion; jobs that wait
// already are the fair case: the producer is not part of what is measured.

import { option, Queue } from './bull.mjs';

const jobs = Number(option('jobs'));
const concurrency = Number(option('concurrency', '50'));
const queue = new Queue(option('queue', 'email'), option('redis'), { prefix: option('prefix') });

let done = 0;
let started;

const drained = new Promise((resolve) => {
  queue.on('completed', () => {
    done += 1;
    if (done === jobs) resolve(performance.now());
  });
});

queue.process('*', concurrency, async () => {
  started ??= performance.now();
});

const seconds = ((await drained) - started) / 1000;
console.log(JSON.stringify({ jobs, seconds, rate: Math.round(jobs / seconds) }));
await queue.close(true);
