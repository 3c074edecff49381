// The hub has the only EventSource of all tabs. It lives in a SharedWorker, or in the tab where there is none.
//
// The daemon sends something at least every two seconds. So longer silence means that the connection is dead, the
// laptop slept, or a proxy keeps answers back: the hub connects again, from the last version that it has seen, and asks
// for the list meanwhile.
import { rowOf, type Report } from '../lib/model';
import { Board } from './board';
import type { Link, ToHub, ToTab } from './protocol';

const tick = 500; // ms between two looks at the clock
const silence = 3500; // ms without an event until the stream counts as dead
const flushEvery = 250; // ms between two messages to the tabs
const pollEvery = 2000; // ms between two lists while the stream is silent
const clockEvery = 15_000; // ms between two looks at the daemon's clock
const longestPause = 2000; // ms between two attempts to connect

export type Tab = { post(m: ToTab): void; watch: Set<string>; seen: boolean };

export class Hub {
  readonly #board = new Board();
  readonly #tabs = new Set<Tab>();
  readonly #changed = new Set<string>();
  #gone: string[] = [];
  #link: Link = { state: 'connecting' };
  #source: EventSource | null = null;
  #heard = 0; // Date.now() of the last event
  #ticked = 0;
  #silent = 0; // streams in a row that were opened and said nothing
  #failed = 0; // attempts in a row that failed
  #due = 0; // Date.now() of the next attempt; 0: none is due
  #polled = 0;
  #polling = false;
  #clocked = 0;
  #known = false; // a snapshot has come

  start(): void {
    this.#ticked = Date.now();
    setInterval(() => this.#tick(), tick);
    setInterval(() => this.#flush(), flushEvery);
    this.#connect();
    void this.#clock();
  }

  add(tab: Tab): void {
    this.#tabs.add(tab);
    tab.post({ type: 'link', link: this.#link });
    if (this.#known) tab.post({ type: 'all', rows: [...this.#board.jobs.values()].map(rowOf), full: this.#full(tab) });
    void this.#clock();
  }

  take(tab: Tab, m: ToHub): void {
    switch (m.type) {
      case 'hello':
        tab.watch = new Set(m.watch);
        this.add(tab);
        break;
      case 'watch': {
        tab.watch = new Set(m.watch);
        const full = this.#full(tab);
        if (full.length) tab.post({ type: 'some', rows: [], gone: [], full });
        break;
      }
      case 'seen':
        if (m.seen && !tab.seen) this.add(tab);
        tab.seen = m.seen;
        break;
      case 'again':
        this.#failed = 0;
        this.#connect();
        break;
      case 'bye':
        this.#tabs.delete(tab);
    }
  }

  #full(tab: Tab): Report[] {
    return [...tab.watch].map((id) => this.#board.jobs.get(id)).filter((r) => r !== undefined);
  }

  #tell(m: ToTab): void {
    for (const t of this.#tabs) t.post(m);
  }

  #setLink(link: Link): void {
    if (link.state === this.#link.state) {
      if (link.state !== 'lost' || (this.#link.state === 'lost' && this.#link.why === link.why)) return;
      if (this.#link.state === 'lost') link.since = this.#link.since;
    }
    this.#link = link;
    this.#tell({ type: 'link', link });
  }

  #connect(): void {
    this.#source?.close();
    this.#due = 0;
    this.#heard = Date.now();
    const at = this.#board.last ? `?last_event_id=${encodeURIComponent(this.#board.last)}` : '';
    const s = new EventSource(`/api/v1/events${at}`);
    this.#source = s;
    const mine = (f: (e: MessageEvent<string>) => void) => (e: Event) => {
      if (this.#source !== s) return;
      this.#hear();
      f(e as MessageEvent<string>);
    };
    s.addEventListener('snapshot', mine((e) => this.#snapshot(JSON.parse(e.data).jobs, e.lastEventId)));
    s.addEventListener('progress', mine((e) => {
      const r = JSON.parse(e.data) as Report;
      if (this.#board.put(r, e.lastEventId)) this.#changed.add(r.job_id);
    }));
    s.addEventListener('deleted', mine((e) => {
      const d = JSON.parse(e.data) as { job_id: string; epoch: number; seq: number };
      if (this.#board.remove(d.job_id, d, e.lastEventId)) this.#gone.push(d.job_id);
    }));
    s.addEventListener('time', mine((e) => this.#time(JSON.parse(e.data).time_ms)));
    s.onerror = () => {
      if (this.#source === s) void this.#lost('the daemon does not answer');
    };
  }

  /** hear notes that the stream lives. */
  #hear(): void {
    this.#heard = Date.now();
    if (this.#link.state !== 'live' || this.#failed || this.#silent) {
      this.#failed = this.#silent = 0;
      this.#known = true;
      this.#setLink({ state: 'live' });
      void this.#clock();
    }
  }

  #snapshot(list: Report[], id: string): void {
    const first = !this.#known || this.#board.jobs.size === 0;
    const c = this.#board.snapshot(list, id);
    this.#known = true;
    if (first) {
      for (const t of this.#tabs) t.post({ type: 'all', rows: list.map(rowOf), full: this.#full(t) });
      return;
    }
    for (const r of c.set) this.#changed.add(r.job_id);
    this.#gone.push(...c.gone);
  }

  /** lost plans the next attempt, and finds out whether the session has ended. */
  async #lost(why: string): Promise<void> {
    this.#source?.close();
    this.#source = null;
    this.#due = Date.now() + Math.min(longestPause, 250 * 2 ** this.#failed++);
    if (this.#link.state !== 'polling') this.#setLink({ state: 'lost', since: Date.now(), why });
    try {
      const answer = await fetch('/api/v1/session', { cache: 'no-store', signal: AbortSignal.timeout(2000) });
      if (answer.status === 401) {
        this.#due = 0;
        this.#setLink({ state: 'refused' });
      }
    } catch {
      // The daemon is away; the next attempt is planned.
    }
  }

  #tick(): void {
    const now = Date.now();
    const slept = now - this.#ticked > silence || now < this.#ticked - silence;
    this.#ticked = now;
    if (this.#link.state === 'refused') return;
    if (slept) {
      this.#failed = 0;
      this.#connect();
    } else if (this.#source === null) {
      if (this.#due && now >= this.#due) this.#connect();
    } else if (now - this.#heard > silence) {
      this.#silent++;
      if (this.#link.state !== 'polling') {
        this.#setLink({ state: 'lost', since: this.#heard, why: 'the stream of events is silent' });
      }
      this.#connect();
    }
    if (this.#link.state !== 'live' && this.#silent > 0 && now - this.#polled > pollEvery) void this.#poll();
    if (now - this.#clocked > clockEvery) void this.#clock();
  }

  /** poll asks for all jobs, page by page. */
  async #poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    this.#polled = Date.now();
    try {
      const list: Report[] = [];
      for (let next: string | null = '/api/v1/jobs?limit=500'; next; ) {
        const answer: Response = await fetch(next, { cache: 'no-store', signal: AbortSignal.timeout(4000) });
        if (!answer.ok) throw new Error(String(answer.status));
        this.#time(Number(answer.headers.get('Vmferry-Time')));
        list.push(...((await answer.json()) as Report[]));
        next = /<([^>]+)>; *rel="next"/.exec(answer.headers.get('Link') ?? '')?.[1] ?? null;
      }
      if (this.#link.state === 'live') return;
      this.#snapshot(list, '');
      this.#setLink({ state: 'polling', since: Date.now() });
    } catch {
      if (this.#link.state === 'polling') {
        this.#setLink({ state: 'lost', since: this.#polled, why: 'the daemon does not answer' });
      }
    } finally {
      this.#polling = false;
    }
  }

  /** clock asks for the daemon's time. */
  async #clock(): Promise<void> {
    this.#clocked = Date.now();
    try {
      const answer = await fetch('/livez', { cache: 'no-store', signal: AbortSignal.timeout(2000) });
      this.#time(Number(answer.headers.get('Vmferry-Time')));
    } catch {
      // The stream says whether the daemon is there.
    }
  }

  #time(server: number): void {
    if (Number.isFinite(server) && server > 0) this.#tell({ type: 'time', server });
  }

  /** flush sends the newest report of each job that has changed. */
  #flush(): void {
    if (!this.#changed.size && !this.#gone.length) return;
    const reports = [...this.#changed].map((id) => this.#board.jobs.get(id)).filter((r) => r !== undefined);
    const rows = reports.map(rowOf);
    for (const t of this.#tabs) {
      const full = t.watch.size ? reports.filter((r) => t.watch.has(r.job_id)) : [];
      if (t.seen) t.post({ type: 'some', rows, gone: this.#gone, full });
      else if (full.length) t.post({ type: 'some', rows: [], gone: [], full });
    }
    this.#changed.clear();
    this.#gone = [];
  }
}
