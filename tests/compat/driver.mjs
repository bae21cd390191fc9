// npm bull behind a pipe: reads one JSON command a line from stdin, answers and reports events on stdout.
//
// Started by driver.py, once for many tests; each test opens queues under its own prefix. An error that nothing
// caught ends this process with a `fatal` line, because in a backend it would have ended the backend.

import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import Queue from 'bull';

const queues = new Map();

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

  async board({ queue, options }) {
    const { serveBoard } = await import('./board.mjs');
    return serveBoard(queues.get(queue), options);
  },

  async close({ queue }) {
    const opened = queues.get(queue);
    queues.delete(queue);
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
