// What a tab knows of the jobs. Changes are taken at most four times a second, when the browser draws.
import { SvelteMap } from 'svelte/reactivity';
import { newer, type Report, type Row } from '../lib/model';
import { first, wanted } from './first';
import { Hub, type Tab } from './hub';
import type { Link, ToHub, ToTab } from './protocol';

const applyEvery = 240; // ms

/** Known are no jobs yet, the newest ones that go on, each that goes on, or all. */
export type Known = 'nothing' | 'some' | 'active' | 'all';

class Live {
  /** version grows with each change of rows, which is a plain map: a thousand jobs change at once. */
  version = $state(0);
  readonly rows = new Map<string, Row>();
  readonly full = new SvelteMap<string, Report>();
  link = $state.raw<Link>({ state: 'connecting' });
  /** gap is the last time without a connection, while it is worth telling. */
  gap = $state.raw<{ from: number; to: number } | null>(null);
  /** known says which jobs are in rows. */
  known = $state<Known>('nothing');
  /** now is the daemon's time in ms, and moves on once a second. */
  now = $state(Date.now());

  #base = { server: Date.now(), local: performance.now() };
  #send: (m: ToHub) => void = () => {};
  #watched: string[] = [];
  #pending: ToTab[] = [];
  #drawing = false;
  #applied = 0;
  #lostAt = 0;

  start(): void {
    const take = (m: ToTab) => this.#take(m);
    try {
      const w = new SharedWorker(new URL('./worker.ts', import.meta.url), { type: 'module', name: 'vmferry-1' });
      w.port.onmessage = (e: MessageEvent<ToTab>) => take(e.data);
      w.port.start();
      this.#send = (m) => w.port.postMessage(m);
    } catch {
      const hub = new Hub();
      const tab: Tab = { post: take, watch: new Set(), seen: true };
      this.#send = (m) => hub.take(tab, m);
      hub.start();
    }
    this.#send({ type: 'hello', watch: this.#watched });
    addEventListener('pagehide', () => this.#send({ type: 'bye' }));
    addEventListener('pageshow', (e) => {
      if (e.persisted) this.#send({ type: 'hello', watch: this.#watched });
    });
    const see = () => this.#send({ type: 'seen', seen: !document.hidden });
    document.addEventListener('visibilitychange', see);
    see();
    addEventListener('online', () => this.again());
    setInterval(() => (this.now = this.serverNow()), 1000);
  }

  /** first shows the jobs that go on, until the hub knows all. It returns when they are there, or will not be. */
  async first(): Promise<void> {
    if (!wanted(location.pathname, new URLSearchParams(location.search))) return;
    const f = await first();
    if (!f || this.known !== 'nothing') return;
    this.heard(f.server, f.at);
    for (const r of f.rows) this.rows.set(r.job_id, r);
    if (f.rows.length) this.known = f.more ? 'some' : 'active';
    this.now = this.serverNow();
    this.version++;
  }

  serverNow(): number {
    return this.#base.server + (performance.now() - this.#base.local);
  }

  /** watch asks for whole reports of these jobs. */
  watch(ids: string[]): void {
    this.#watched = ids;
    this.#send({ type: 'watch', watch: ids });
  }

  again(): void {
    this.#send({ type: 'again' });
  }

  /** heard takes the daemon's time from an answer, and when the answer came by performance.now(). */
  heard(server: number, at = performance.now()): void {
    if (!Number.isFinite(server) || server <= 0) return;
    const before = this.serverNow();
    this.#base = { server, local: at };
    const after = this.serverNow();
    if (Math.abs(after - before) > 500) this.now = after;
  }

  #take(m: ToTab): void {
    switch (m.type) {
      case 'time':
        this.heard(m.server);
        break;
      case 'link':
        this.#setLink(m.link);
        break;
      default:
        if (m.type === 'all') this.#pending = [];
        this.#pending.push(m);
        if (document.hidden) this.#apply(); // nothing is drawn, and little is sent
        else this.#draw();
    }
  }

  #setLink(link: Link): void {
    const now = this.serverNow();
    if (link.state === 'lost' && !this.#lostAt) this.#lostAt = now - Math.max(0, Date.now() - link.since);
    if ((link.state === 'live' || link.state === 'polling') && this.#lostAt) {
      const gap = { from: this.#lostAt, to: now };
      this.gap = gap;
      this.#lostAt = 0;
      setTimeout(() => {
        if (this.gap === gap) this.gap = null;
      }, 10_000);
    }
    this.link = link;
  }

  #draw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    const wait = Math.max(0, this.#applied + applyEvery - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.#apply()), wait);
  }

  #apply(): void {
    this.#drawing = false;
    this.#applied = performance.now();
    for (const m of this.#pending) {
      if (m.type !== 'all' && m.type !== 'some') continue;
      if (m.type === 'all') {
        this.#replace(m.rows);
      } else {
        for (const id of m.gone) {
          this.rows.delete(id);
          this.full.delete(id);
        }
        for (const r of m.rows) this.rows.set(r.job_id, r);
      }
      for (const r of m.full) this.full.set(r.job_id, r);
    }
    this.#pending = [];
    this.now = this.serverNow();
    this.version++;
  }

  /** replace takes all rows. The hub may know less than what was shown first: that does not go back. */
  #replace(rows: Row[]): void {
    const first = this.known === 'all' ? null : new Map(this.rows);
    this.rows.clear();
    for (const r of rows) {
      const had = first?.get(r.job_id);
      this.rows.set(r.job_id, had && had.epoch === r.epoch && newer(had, r) ? had : r);
    }
    this.known = 'all';
  }
}

export const live = new Live();
