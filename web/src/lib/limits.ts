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

const leastPatience = 1; // s
const mostPatience = 30 * 24 * 3600; // s
const seconds = { h: 3600, m: 60, s: 1 } as const;

/** readPatience reads a time such as 4h or 1h30m, likewise: in seconds. 0 is what the daemon is configured with. */
export function readPatience(text: string): number | string | null {
  const t = text.trim();
  if (!t) return null;
  if (/^0[hms]?$/.test(t)) return 0;
  if (!/^(\d{1,9}(\.\d{1,3})?[hms])+$/.test(t)) return 'This is no time: write it as 4h or 10m';
  let n = 0;
  for (const [, count, unit] of t.matchAll(/([\d.]+)([hms])/g)) n += Number(count) * seconds[unit as 'h' | 'm' | 's'];
  n = Math.round(n);
  return n < leastPatience || n > mostPatience ? 'Use a time from 1s to 720h' : n;
}
