// The speed of all jobs together: filled from the daemon on load, then counted on here.
import { live } from '../live/live.svelte';
import { totals } from './model';

export type Point = { at: number; value: number | null };
const window = 15 * 60_000; // ms
const step = 1000; // ms

class Total {
  points = $state.raw<Point[]>([]);
  #last = 0;

  /** fill asks what the daemon has kept. */
  async fill(): Promise<void> {
    try {
      const a = await fetch('/api/v1/throughput?window=15m&step=auto');
      if (!a.ok) return;
      const body = (await a.json()) as { samples: { at: string; bytes_per_second: number | null }[] };
      const old = body.samples.map((s) => ({ at: Date.parse(s.at), value: s.bytes_per_second }));
      const first = this.points[0]?.at ?? Infinity;
      this.points = [...old.filter((p) => p.at < first), ...this.points];
      this.#last = this.points.at(-1)?.at ?? 0;
    } catch {
      // The line begins now.
    }
  }

  /** note adds the present speed, at most once a second. */
  note(now: number): void {
    if (now - this.#last < step - 50 || live.known !== 'all') return;
    this.#last = now;
    const value = live.link.state === 'live' || live.link.state === 'polling' ? totals(live.rows.values()).rate : null;
    const from = this.points.findIndex((p) => p.at >= now - window);
    this.points = [...(from > 0 ? this.points.slice(from) : this.points), { at: now, value }];
  }
}

export const total = new Total();
