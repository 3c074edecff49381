// How numbers and times are written. A value that is not known is a dash, never a zero.

export const unknown = '–';

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** bytes writes a size with at most one decimal, as the command line does: 871 MiB, 1.5 GiB. */
export function bytes(n: number | null | undefined): string {
  if (n == null || !Number.isFinite(n)) return unknown;
  let value = Math.abs(n);
  let unit = 0;
  while (value >= 1023.95 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const text = unit === 0 ? String(Math.round(value)) : trim(value.toFixed(1));
  return `${n < 0 ? '-' : ''}${text} ${units[unit]}`;
}

function trim(text: string): string {
  return text.endsWith('.0') ? text.slice(0, -2) : text;
}

/** rate writes bytes per second. */
export function rate(n: number | null | undefined): string {
  return n == null || !Number.isFinite(n) ? unknown : `${bytes(n)}/s`;
}

/** percent writes 0 to 100 with one decimal. Nothing that is not complete is written as 100. */
export function percent(n: number | null | undefined): string {
  if (n == null || !Number.isFinite(n)) return unknown;
  if (n >= 100) return '100 %';
  return `${Math.min(99.9, Math.floor(n * 10) / 10).toFixed(1)} %`;
}

/** share writes a part of one, 0 to 1, as whole percents. */
export function share(n: number | null | undefined): string {
  return n == null || !Number.isFinite(n) ? unknown : `${Math.round(n * 100)} %`;
}

/** duration writes seconds with its two largest units: 7.2 s, 4 min 12 s, 3 h 5 min, 2 d 4 h. */
export function duration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return unknown;
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${trim(s.toFixed(1))} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  return twoUnits(Math.round(s));
}

function twoUnits(s: number): string {
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return both(minutes, 'min', s % 60, 's');
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return both(hours, 'h', minutes % 60, 'min');
  return both(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

function both(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** whole writes a duration without a fraction, for what counts on once a second. */
export function whole(seconds: number | null | undefined): string {
  return seconds == null || !Number.isFinite(seconds) ? unknown : duration(Math.floor(Math.max(0, seconds)));
}

/** millis reads a time of the API; null if there is none. */
export function millis(at: string | null | undefined): number | null {
  if (!at) return null;
  const ms = Date.parse(at);
  return Number.isNaN(ms) ? null : ms;
}

/** since is the seconds from a time of the API to now, never negative; null if there is no time. */
export function since(at: string | null | undefined, now: number): number | null {
  const ms = millis(at);
  return ms == null ? null : Math.max(0, (now - ms) / 1000);
}

/** clock writes the time of day, and the date too if it is not today's. */
export function clock(at: string | number | null | undefined, now: number): string {
  const ms = typeof at === 'number' ? at : millis(at);
  if (ms == null) return unknown;
  const d = new Date(ms);
  const time = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  const today = new Date(now);
  if (d.toDateString() === today.toDateString()) return time;
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${time}`;
}

function two(n: number): string {
  return String(n).padStart(2, '0');
}

/** plural writes a count with its noun. */
export function plural(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? '' : 's'}`;
}

/** words writes a name of the API as words: waiting_cutover is "waiting cutover". */
export function words(name: string): string {
  return name.replaceAll('_', ' ');
}

const invisible = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** plain shows what a name hides: control characters and marks of direction become a visible sign. */
export function plain(text: string): string {
  return (text ?? '').replace(invisible, '\u2423'); // another version of the daemon may leave a text out
}

/** sizeIn reads 200MiB, 1.5 GiB or 1000; null if it is not a size. */
export function sizeIn(text: string): number | null {
  const m = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?(?:\/s)?\s*$/i.exec(text);
  if (!m) return null;
  const power = ' kmgt'.indexOf((m[2] ?? '').toLowerCase() || ' ');
  return Math.round(Number(m[1]) * 1024 ** power);
}
