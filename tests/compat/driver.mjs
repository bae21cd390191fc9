// npm bull behind a pipe: reads one JSON command a line from stdin, answers and reports events on stdout.
//
// Started by driver.py, once for many tests; each test opens queues under its own prefix. An error that nothing
// caught ends this process with a `fatal` line, because in a backend it would have ended the backend.

import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import Queue from 'bull';
import scripts from 'bull/lib/scripts.js';

const queues = new Map();
const claimed = new Map(); // jobs that a test has claimed by hand, by queue and id
const realNow = Date.now;

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

function die(error) {
  process.stdout.write(`${JSON.stringify({ fatal: String(error?.stack ?? error) })}\n`, () => process.exit(70));
}

process.on('uncaughtException', die);
process.on('unhandledRejection', die);

const commands = {
  open({ queue, name, redis, options }) {
    const opened = new Queue(name, redis, options);
    opened.on('error', (error) => say({ event: 'error', queue, at: Date.now(), args: [String(error)] }));
    queues.set(queue, opened);
    return opened.isReady().then(() => opened.token);
  },

  async listen({ queue, events }) {
    const opened = queues.get(queue);
    for (const event of events) {
      opened.on(event, (...args) => say({ event, queue, at: Date.now(), args }));
    }
    // `on` subscribes in the background; a test must know that it will miss nothing.
    await Promise.all(events.map((event) => opened._registerEvent(event)));
  },

  call({ queue, method, args }) {
    return queues.get(queue)[method](...args);
  },

  async job({ queue, job, method, args }) {
    const found = await queues.get(queue).getJob(job);
    if (!found) throw new Error(`no job ${job}`);
    return found[method](...args);
  },

  async process({ queue, name, concurrency, behaviour }) {
    const opened = queues.get(queue);
    opened.process(name, concurrency, (job) => {
      say({ event: 'run', queue, at: Date.now(), args: [job] });
      return behave(job, behaviour);
    }).catch(die);
    await opened.isReady();
  },

  // From now on Date.now() returns `ms`; without it, the real time again.
  clock({ ms }) {
    Date.now = ms === undefined ? realNow : () => ms;
  },

  // The transitions of a worker, one at a time, with what Bull's own worker calls for each.
  async claim({ queue }) {
    const job = await queues.get(queue).moveToActive();
    if (!job) return null;
    claimed.set(`${queue} ${job.id}`, job);
    return job.id;
  },

  async complete({ queue, job, value }) {
    await claimed.get(`${queue} ${job}`).moveToCompleted(value, false, true);
  },

  async fail({ queue, job, message }) {
    await claimed.get(`${queue} ${job}`).moveToFailed({ message }, false);
  },

  async promoteDue({ queue }) {
    await scripts.updateDelaySet(queues.get(queue), Date.now());
  },

  async checkStalled({ queue }) {
    await scripts.moveUnlockedJobsToWait(queues.get(queue));
  },

  // What a program sees that reads the queue through npm bull.
  async look({ queue }) {
    const opened = queues.get(queue);
    const counts = await opened.getJobCounts();
    const rows = {};
    for (const state of ['waiting', 'active', 'delayed', 'completed', 'failed', 'paused']) {
      const found = await opened.getJobs([state], 0, -1, true);
      rows[state] = found.map((job) => [job.id, job.name, job.attemptsMade, job.failedReason ?? null, job.returnvalue]);
    }
    return { counts, rows };
  },

  async board({ queue, options }) {
    const { serveBoard } = await import('./board.mjs');
    return serveBoard(queues.get(queue), options);
  },

  async close({ queue }) {
    const opened = queues.get(queue);
    queues.delete(queue);
    for (const key of claimed.keys()) if (key.startsWith(`${queue} `)) claimed.delete(key);
    await opened.close(true);
  },
};

async function behave(job, { kind, value, message, ms }) {
  if (ms) await sleep(ms);
  switch (kind) {
    case 'return':
      return value;
    case 'echo':
      return job.data;
    case 'throw':
      throw new Error(message);
    case 'die':
      return process.kill(process.pid, 'SIGKILL');
  }
  throw new Error(`unknown behaviour ${kind}`);
}

async function answer({ id, command, ...fields }) {
  try {
    say({ id, value: (await commands[command](fields)) ?? null });
  } catch (error) {
    say({ id, error: String(error?.message ?? error) });
  }
}

createInterface({ input: process.stdin })
  .on('line', (line) => answer(JSON.parse(line)))
  .on('close', () => process.exit(0));
