// Adds N jobs to a queue as the FlowState backend would, with addBulk and its options, and says how long it took.
//
//   node bull_producer.mjs --redis URL --prefix P --jobs N [--batch B] [--kind otp,welcome,…] [--queue email]
//
// The kinds take turns. Prints {"jobs", "seconds", "rate"}.

import { option, Queue } from './bull.mjs';

const PRIORITY = { otp: 1, 'password-reset': 1, 'goal-milestone': 10, 'streak-milestone': 10, 'focus-report': 10 };
const CONTEXT = { otp: { otpCode: '482913' }, 'password-reset': { otpCode: '730046' } };

const jobs = Number(option('jobs'));
const batch = Number(option('batch', '500'));
const kinds = option('kind', 'welcome').split(',');
const queue = new Queue(option('queue', 'email'), option('redis'), { prefix: option('prefix') });

function mail(number) {
  const kind = kinds[number % kinds.length];
  return {
    name: kind,
    data: { type: kind, to: `person-${number}@example.org`, context: CONTEXT[kind] ?? { name: `Person ${number}` } },
    opts: {
      attempts: 3,
      backoff: { type: 'exponential', delay: 2000 },
      removeOnComplete: true,
      removeOnFail: false,
      priority: PRIORITY[kind] ?? 5,
    },
  };
}

const begun = performance.now();
for (let next = 0; next < jobs; next += batch) {
  const size = Math.min(batch, jobs - next);
  await queue.addBulk(Array.from({ length: size }, (_, number) => mail(next + number)));
}
const seconds = (performance.now() - begun) / 1000;
console.log(JSON.stringify({ jobs, seconds, rate: Math.round(jobs / seconds) }));
await queue.close(true);
