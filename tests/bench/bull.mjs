// What the benchmark's node scripts share: npm bull as the compatibility tests install it, and their options.

import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

// The packages live beside the compatibility tests: one lock file, one install.
export const Queue = createRequire(new URL('../compat/driver.mjs', import.meta.url))('bull');

const NAMES = ['redis', 'prefix', 'queue', 'jobs', 'concurrency', 'batch', 'kind'];
const { values } = parseArgs({ options: Object.fromEntries(NAMES.map((name) => [name, { type: 'string' }])) });

export function option(name, otherwise) {
  const value = values[name] ?? otherwise;
  if (value === undefined) {
    console.error(`--${name} is needed`);
    process.exit(64);
  }
  return value;
}
