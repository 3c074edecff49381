// An event of a job in words, where the daemon sends none.
import { bytes, words } from './format';
import { phaseText, type Entry } from './model';

type Data = Record<string, unknown>;

function text(v: unknown): string {
  return typeof v === 'string' || typeof v === 'number' ? String(v) : '';
}

function counters(d: Data, key: string): number | null {
  const c = d.counters as Data | undefined;
  return typeof c?.[key] === 'number' ? (c[key] as number) : null;
}

const simple: Record<string, string> = {
  turn_came: 'begins: its turn has come',
  restarted: 'the daemon was started again; the job goes on',
  set_committed: 'committed: the targets equal the snapshot',
  snapshot_gone: 'the snapshot is removed',
  targets_purged: 'the targets that the job made are removed',
};

/** eventText says what was; an event that the page does not know is its type and its data. */
export function eventText(e: Entry): string {
  if (e.text) return e.text;
  const d = (e.data ?? {}) as Data;
  const known = simple[e.type];
  if (known) return known;
  switch (e.type) {
    case 'disk_moved':
      return `${text(d.disk)} is on its target: ${bytes(counters(d, 'transferred'))} moved`;
    case 'disk_verified':
      return `${text(d.disk)} is verified: ${bytes(counters(d, 'verified'))} read back, all equal`;
    case 'disk_fell':
      return `attempt ${text(d.attempt)} at ${text(d.disk)} failed (${text(d.kind)}): ${text(d.message)}`;
    case 'step_fell':
      return `${phaseText(text(d.phase))} failed (${text(d.kind)}): ${text(d.message)}`;
    case 'asked':
      return `command: ${text(d.verb)}`;
    default: {
      const rest = Object.entries(d).filter(([, v]) => typeof v !== 'object').map(([k, v]) => `${k} ${String(v)}`);
      return [words(e.type), ...rest].join(', ');
    }
  }
}

/** levelOf is how an event is marked. */
export function levelOf(e: Entry): '' | 'warn' | 'bad' | 'good' {
  if (e.type === 'disk_fell' || e.type === 'step_fell') {
    return (e.data as Data | undefined)?.kind === 'cancelled' ? '' : 'warn';
  }
  if (e.type === 'set_committed' || e.type === 'disk_verified') return 'good';
  return '';
}
