// bull-board over one queue, as an operator would mount it; loaded only by the tests that use it.

import { createBullBoard } from '@bull-board/api';
import { BullAdapter } from '@bull-board/api/bullAdapter';
import { ExpressAdapter } from '@bull-board/express';
import express from 'express';

export function serveBoard(queue, options) {
  const adapter = new ExpressAdapter();
  createBullBoard({ queues: [new BullAdapter(queue, options)], serverAdapter: adapter });
  const app = express();
  app.use(adapter.getRouter());
  return new Promise((resolve, reject) => {
    const server = app.listen(0, '127.0.0.1', (error) => (error ? reject(error) : resolve(server.address().port)));
    queue.once('close', () => server.close());
  });
}
