// The node peers, bull and bullmq: `node node_peers.mjs <peer> <role> …`, as protocol.py describes.

import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const [name, role, ...rest] = process.argv.slice(2);
const NAMES = ['redis', 'jobs', 'mode', 'concurrency', 'deadline', 'interval', 'provider'];
const types = Object.fromEntries(NAMES.map((option) => [option, { type: 'string' }]));
const { values } = parseArgs({ args: rest, options: { ...types, priorities: { type: 'boolean' } } });
const jobs = Number(values.jobs ?? '1');
const mode = values.mode ?? 'noop';
const concurrency = Number(values.concurrency ?? '1');
const deadline = Number(values.deadline ?? '60') * 1000;
// Node takes its time origin from another clock, which may differ by milliseconds from that of the Python processes.
const origin = clockOrigin();
const now = () => (origin + performance.now()) / 1000;
const cpu = () => Object.values(process.cpuUsage()).reduce((sum, used) => sum + used, 0) / 1e6;
const print = (result) => process.stdout.write(`${JSON.stringify(result)}\n`);

/** What to add to performance.now() for Unix milliseconds, taken when the system's clock reaches a new one. */
function clockOrigin() {
  const before = Date.now();
  let at = before;
  while (at === before) at = Date.now();
  return at - performance.now();
}

// BullMQ puts jobs without a priority first, so with priorities every job of a backlog has one.
const ORDINARY = { bull: 5, bullmq: 10 };
const options = (job) => ({
  attempts: 3,
  removeOnComplete: true,
  ...(values.priorities && { priority: job.mode === 'code' ? 1 : ORDINARY[name] }),
});

function backlog(number) {
  const context = {
    userName: `Person ${number}`,
    taskTitle: `Write down what task ${number} is about`,
    projectName: 'Personal',
    priority: 3,
    estimatedTime: 30,
    taskUrl: `https://flowstate.dev/tasks/${number}`,
    settingsUrl: 'https://flowstate.dev/settings/notifications',
  };
  const data = { mode, type: 'task-reminder', to: `person${number}@mail.dev`, context };
  return { name: 'task-reminder', data, opts: options(data) };
}

const code = (number) => ({
  mode: 'code',
  type: 'otp',
  to: `code${number}@mail.dev`,
  context: { otpCode: String(number).padStart(6, '0') },
  at: now(),
});

let done = 0;
let first = 0;
let last = 0;
let bulk = 0;
let bulkLast = 0;
let used = 0;
const waits = [];

function finish() {
  const seconds = done ? Math.max(last - first, 1e-6) : 0;
  const rss = Math.round(process.memoryUsage.rss() / 104857.6) / 10;
  const ofBulk = { bulk, bulk_seconds: bulk ? Math.max(bulkLast - first, 1e-6) : 0 };
  print({ jobs: done, seconds, ...ofBulk, cpu_s: cpu() - used, rss_mb: rss, waits_ms: waits });
  process.exit(0);
}

async function perform(job) {
  if (job.data.at) waits.push((now() - job.data.at) * 1000);
  if (!first) {
    used = cpu();
    first = now();
    setTimeout(finish, deadline);
    print({ first });
  }
  if (job.data.mode === 'hold') await new Promise((resolve) => setTimeout(resolve, deadline));
}

function completed(job) {
  done += 1;
  last = now();
  if (!job.data.at) {
    bulk += 1;
    bulkLast = last;
  }
  if ((mode === 'code' ? waits.length : done) >= jobs) finish();
}

function openBull() {
  const Queue = require('bull');
  const queue = new Queue('email', values.redis);
  return {
    add: (job) => queue.add('otp', job, options(job)),
    fill: (chunk) => queue.addBulk(chunk),
    work: () => {
      queue.on('completed', completed);
      queue.process('*', concurrency, perform);
    },
  };
}

function openBullMq() {
  const { Queue, Worker } = require('bullmq');
  const { hostname: host, port } = new URL(values.redis);
  const connection = { host, port: Number(port), maxRetriesPerRequest: null };
  const queue = new Queue('email', { connection });
  return {
    add: (job) => queue.add('otp', job, options(job)),
    fill: (chunk) => queue.addBulk(chunk),
    work: () => new Worker('email', perform, { connection, concurrency }).on('completed', completed),
  };
}

const peer = { bull: openBull, bullmq: openBullMq }[name]();
if (role === 'work') {
  peer.work();
} else if (role === 'fill') {
  const started = now();
  for (let next = 0; next < jobs; next += 500) {
    const size = Math.min(500, jobs - next);
    await peer.fill(Array.from({ length: size }, (_, index) => backlog(next + index)));
  }
  print({ seconds: now() - started });
  process.exit(0);
} else {
  const spent = [];
  for (let number = 0; number < jobs; number += 1) {
    const job = code(number);
    await peer.add(job);
    spent.push((now() - job.at) * 1000);
    await new Promise((resolve) => setTimeout(resolve, Number(values.interval ?? '0.05') * 1000));
  }
  print({ adds_ms: spent });
  process.exit(0);
}
