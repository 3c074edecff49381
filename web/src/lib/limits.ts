// What is typed as a limit of a job.
import { rate, sizeIn } from './format';

/** leastRate is the least bandwidth of a job, in bytes per second, as the daemon takes it. */
export const leastRate = 64 * 1024;
const mostDisks = 256;

/** readRate reads a bandwidth: null for nothing, bytes per second, or what is wrong with it. 0 is no limit. */
export function readRate(text: string): number | string | null {
  if (!text.trim()) return null;
  const n = sizeIn(text);
  if (n == null) return 'This is no rate: write it as 200MiB or 1.5GiB';
  if (n !== 0 && n < leastRate) return `The least rate is ${rate(leastRate)}; 0 is no limit`;
  if (n > 2 ** 53 - 1) return 'This rate is too high';
  return n;
}

/** readDisks reads how many disks are copied at a time, likewise. */
export function readDisks(text: string): number | string | null {
  if (!text.trim()) return null;
  const n = /^\s*\d{1,4}\s*$/.test(text) ? Number(text) : NaN;
  if (Number.isNaN(n) || n > mostDisks) return `Use 1 to ${mostDisks}, or 0 for no limit`;
  return n;
}
