// The words of the API, and what the page derives of a report. Everything here is pure.
import type { components } from '../api/schema';

type Schemas = components['schemas'];
export type Report = Schemas['Report'];
export type Disk = Schemas['ReportDisk'];
export type Phase = Schemas['ReportPhase'];
export type WaitedFor = Schemas['WaitedFor'];
export type Round = Schemas['ReportRound'];
export type Wait = Schemas['Wait'];
export type Load = Schemas['Load'];
export type Cause = Schemas['ReportError'];
export type Status = Schemas['JobStatus'];
export type Health = Schemas['HealthFlag'];
export type Verb = Schemas['JobVerb'];
export type Volume = Schemas['Volume'];
export type System = Schemas['SystemReport'];
export type Check = Schemas['Check'];
export type JobRequest = Schemas['JobRequest'];
export type Entry = Schemas['JournalEntry'];
export type VM = Schemas['VM'];
export type VMList = Schemas['VMList'];
export type WatchedNode = Schemas['Node'];

/** Row is what a list needs of a report. */
export type Row = Omit<Report, 'disks' | 'phases' | 'rounds' | 'notes' | 'options'> & {
  disk_count: number;
  disks_done: number;
  restarts: number;
};

/** rowOf leaves out the parts of a report that only the view of one job shows. */
export function rowOf(r: Report): Row {
  const { disks, phases: _p, rounds: _r, notes: _n, options: _o, ...row } = r;
  let done = 0;
  let restarts = 0;
  for (const d of disks) {
    if (d.status === 'completed') done++;
    restarts += d.restarts;
  }
  return { ...row, disk_count: disks.length, disks_done: done, restarts };
}

/** nameOf is what a job is called: by its VM, or by its id where another tool has told no VM. */
export function nameOf(r: Pick<Row, 'vm' | 'job_id'>): string {
  return r.vm.name || r.job_id;
}

type Versioned = Pick<Report, 'epoch' | 'seq'>;

/** newer says whether a is a later report than b: a higher epoch wins, then a higher seq. */
export function newer(a: Versioned, b: Versioned): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.seq > b.seq);
}

export const statuses: Status[] = [
  'running',
  'waiting_cutover',
  'pending',
  'paused',
  'failed',
  'completed',
  'cancelled',
  'unreachable',
  'lost',
];
export const healths: Health[] = ['stalled', 'silent', 'unavailable', 'stale', 'retrying', 'throttled', 'degraded'];
export const phases = [
  'queued',
  'preflight',
  'cbt',
  'snapshot',
  'connect',
  'transfer',
  'verify',
  'commit',
  'waiting',
  'cleanup',
] as const;

const statusWords: Record<Status, string> = {
  pending: 'Queued',
  running: 'Running',
  paused: 'Paused',
  waiting_cutover: 'Waits for cut-over',
  completed: 'Completed',
  failed: 'Failed',
  cancelled: 'Cancelled',
  unreachable: 'Unreachable',
  lost: 'Lost',
};

export function statusText(s: string): string {
  return statusWords[s as Status] ?? s;
}

const healthWords: Record<Health, [string, string]> = {
  throttled: ['Throttled', 'waits for a bandwidth limit or a permit'],
  retrying: ['Retrying', 'an attempt or step failed and is tried again'],
  unavailable: ['Unavailable', 'waits for a vCenter, host, source or target that does not answer'],
  silent: ['Silent', 'a request to the source or target has had no answer for long'],
  stalled: ['Stalled', 'no byte has moved for long, and no limit explains it'],
  degraded: ['Degraded', 'a projection such as Redis takes no reports; copying goes on'],
  stale: ['Stale', 'the numbers are old: no progress came'],
};

export function healthText(h: string): string {
  return healthWords[h as Health]?.[0] ?? h;
}

export function healthMeaning(h: string): string {
  return healthWords[h as Health]?.[1] ?? '';
}

const phaseWords: Record<string, string> = {
  queued: 'Queued',
  preflight: 'Preflight',
  cbt: 'Change tracking',
  snapshot: 'Snapshot',
  connect: 'Connect',
  transfer: 'Transfer',
  verify: 'Verify',
  commit: 'Commit',
  waiting: 'Waiting',
  cleanup: 'Clean-up',
  completed: 'Completed',
  failed: 'Failed',
  cancelled: 'Cancelled',
};

export function phaseText(p: string): string {
  return phaseWords[p] ?? p;
}

const waitedWords: Record<WaitedFor, string> = {
  turn: 'its turn',
  permit: 'a permit',
  limit: 'a bandwidth limit',
  vcenter: 'the vCenter',
  host: 'the ESXi host',
  source: 'the source',
  target: 'the target',
  journal: 'the journal',
  retry: 'the next try',
  resume: 'resume',
  operator: 'sync or cut-over',
  daemon: 'the daemon',
};

/** waitedText names what a phase waited for. */
export function waitedText(w: string): string {
  return waitedWords[w as WaitedFor] ?? w;
}

export function ended(s: Status): boolean {
  return s === 'completed' || s === 'failed' || s === 'cancelled';
}

/** limitable says whether the limits of a job can be changed here. */
export function limitable(r: Pick<Row, 'status' | 'origin' | 'watched'>): boolean {
  return r.origin === 'vmferry' && r.watched?.kind !== 'legacy' && !ended(r.status);
}

/** troubled says whether a person should look at the job. */
export function troubled(r: Pick<Row, 'status' | 'health'>): boolean {
  if (r.status === 'failed' || r.status === 'lost' || r.status === 'unreachable') return true;
  return r.health.some((h) => h === 'stalled' || h === 'silent' || h === 'unavailable' || h === 'stale');
}

/** staleAfter is the age in seconds from which the numbers of a running job are shown as old. */
export const staleAfter = 5;

/** sampled is when the numbers of a job were taken. */
export function sampled(r: Pick<Row, 'sampled_at' | 'observed_at'>): string {
  return r.sampled_at ?? r.observed_at;
}

/** moving says whether the numbers of the job should change all the time. */
export function moving(r: Pick<Row, 'status' | 'phase'>): boolean {
  return r.status === 'running' && (r.phase === 'transfer' || r.phase === 'verify');
}

/** stale says whether the numbers of a job are too old to be believed. */
export function stale(r: Row | Report, now: number): boolean {
  if (r.health.includes('stale')) return true;
  return moving(r) && now - Date.parse(sampled(r)) > staleAfter * 1000;
}

export type SortKey = 'attention' | 'vm' | 'status' | 'progress' | 'speed' | 'eta' | 'created' | 'ended';

const rank: Record<Status, number> = {
  running: 1,
  waiting_cutover: 2,
  paused: 3,
  pending: 4,
  unreachable: 0,
  lost: 0,
  failed: 5,
  completed: 6,
  cancelled: 7,
};

/** attention orders jobs by how soon a person should look at them. */
function attention(r: Row): number {
  return !ended(r.status) && troubled(r) ? 0 : (rank[r.status] ?? 8);
}

const collator = new Intl.Collator('en', { numeric: true });

const keys: Record<SortKey, (a: Row, b: Row) => number> = {
  attention: (a, b) => attention(a) - attention(b),
  vm: (a, b) => collator.compare(nameOf(a), nameOf(b)),
  status: (a, b) => (rank[a.status] ?? 8) - (rank[b.status] ?? 8),
  progress: (a, b) => a.overall_percent - b.overall_percent,
  speed: (a, b) => (a.bytes_per_second ?? -1) - (b.bytes_per_second ?? -1),
  eta: (a, b) => (a.eta_seconds ?? Infinity) - (b.eta_seconds ?? Infinity) || 0,
  created: (a, b) => Date.parse(a.created_at) - Date.parse(b.created_at),
  ended: (a, b) => Date.parse(a.ended_at ?? '') - Date.parse(b.ended_at ?? '') || 0,
};

/** sorted orders rows; those that are equal by the key keep the newest job first. */
export function sorted(rows: Row[], key: SortKey, falling: boolean): Row[] {
  const by = keys[key];
  const sign = falling ? -1 : 1;
  return rows.sort((a, b) => {
    const d = by(a, b);
    if (d !== 0 && !Number.isNaN(d)) return sign * d;
    return a.created_at === b.created_at ? (a.job_id < b.job_id ? 1 : -1) : a.created_at < b.created_at ? 1 : -1;
  });
}

/** ownNode stands for this daemon where a node is named. No node has this name. */
export const ownNode = '-';

/** nodeOf is the node that runs a job. */
export function nodeOf(r: Pick<Row, 'node'>): string {
  return r.node || ownNode;
}

/** nodeText names a node. */
export function nodeText(node: string): string {
  return node === ownNode ? 'this daemon' : node;
}

/** nodesOf names the nodes of jobs, in order; none if all jobs are of one node, which then goes without saying. */
export function nodesOf(rows: Iterable<Row>): string[] {
  const all = new Set<string>();
  for (const r of rows) all.add(nodeOf(r));
  return all.size > 1 ? [...all].sort(collator.compare) : [];
}

export type Filter = { text: string; status: string; health: string; node: string };

/** fits says whether a row is shown. The text is searched in the VM's name and path and in the job's id. */
export function fits(r: Row, f: Filter): boolean {
  if (f.health && !r.health.includes(f.health as Health)) return false;
  if (f.node && nodeOf(r) !== f.node) return false;
  if (!statusFits(r, f.status)) return false;
  if (!f.text) return true;
  const t = f.text.toLowerCase();
  return (
    r.vm.name.toLowerCase().includes(t) || r.vm.path.toLowerCase().includes(t) || r.job_id.toLowerCase().includes(t)
  );
}

export const groups = ['all', 'active', 'attention'] as const;

export function statusFits(r: Row, status: string): boolean {
  switch (status) {
    case '':
    case 'all':
      return true;
    case 'active':
      return !ended(r.status);
    case 'attention':
      return troubled(r);
    default:
      return r.status === status;
  }
}

export type Totals = {
  running: number;
  waiting: number;
  queued: number;
  troubled: number;
  ended: number;
  all: number;
  rate: number | null;
  left: number | null;
  eta: number | null;
};

/** totals sums over all jobs. What no job knows is null. */
export function totals(rows: Iterable<Row>): Totals {
  const t: Totals = {
    running: 0,
    waiting: 0,
    queued: 0,
    troubled: 0,
    ended: 0,
    all: 0,
    rate: null,
    left: null,
    eta: null,
  };
  for (const r of rows) {
    t.all++;
    if (troubled(r)) t.troubled++;
    if (ended(r.status)) t.ended++;
    else if (r.status === 'waiting_cutover') t.waiting++;
    else if (r.status === 'pending') t.queued++;
    else if (r.status === 'running') t.running++;
    if (r.status !== 'running') continue;
    if (r.bytes_per_second != null) t.rate = (t.rate ?? 0) + r.bytes_per_second;
    const left = leftOf(r);
    if (left != null) t.left = (t.left ?? 0) + left;
    if (r.eta_seconds != null) t.eta = Math.max(t.eta ?? 0, r.eta_seconds);
  }
  return t;
}

/** leftOf is what the round has still to move. */
export function leftOf(r: Pick<Row, 'bytes_to_transfer' | 'bytes_transferred' | 'bytes_skipped'>): number | null {
  return r.bytes_to_transfer == null ? null : Math.max(0, r.bytes_to_transfer - r.bytes_transferred - r.bytes_skipped);
}

export type Parts = { durable: number; moved: number; skipped: number; verified: number };

/** parts are the shares, 0 to 100, of a disk's bar. They never add up to more than the whole. */
export function parts(d: Disk): Parts {
  const all = d.bytes_to_transfer ?? 0;
  if (all <= 0) {
    const full = d.status === 'completed' ? 100 : 0;
    return { durable: full, moved: 0, skipped: 0, verified: 0 };
  }
  const of = (n: number) => Math.min(100, Math.max(0, (n / all) * 100));
  const done = of(d.bytes_transferred + d.bytes_skipped);
  const skipped = Math.min(done, of(d.bytes_skipped));
  const durable = Math.min(done - skipped, of(d.bytes_durable));
  return { durable, moved: Math.max(0, done - skipped - durable), skipped, verified: of(d.bytes_verified) };
}

/** slowest names what the work waits for most. */
export function slowest(l: Load | null | undefined): { name: string; share: number } | null {
  if (!l) return null;
  const list: [string, number][] = [
    ['source', l.source],
    ['target', l.target],
    ['limit', l.throttle],
  ];
  const [name, most] = list.reduce((a, b) => (b[1] > a[1] ? b : a));
  return most < 0.1 ? null : { name, share: most };
}
