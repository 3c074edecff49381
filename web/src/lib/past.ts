// A job of the past, from the tables of the history or from the journal.
import type { components } from '../api/schema';
import { millis } from './format';
import { nameOf, type Report } from './model';

export type Past = {
  id: string;
  name: string;
  path: string;
  node: string;
  status: string;
  createdAt: string | null;
  endedAt: string | null;
  took: number | null; // s, from the begin to the end
  moved: number; // bytes, over all rounds
  rounds: number | null; // null where that is not kept
  average: number | null; // bytes per second, while it copied
  since: string | null; // of the reason, for a job that is not seen
  why: string;
};

function took(begin: string | null, end: string | null): number | null {
  const [from, to] = [millis(begin), millis(end)];
  return from == null || to == null ? null : Math.max(0, (to - from) / 1000);
}

/** pastOfRow is a row of the tables. */
export function pastOfRow(r: components['schemas']['HistoryRow']): Past {
  return {
    id: r.job_id,
    name: r.vm_name || r.job_id,
    path: r.vm_path,
    node: r.node,
    status: r.status,
    createdAt: r.created_at,
    endedAt: r.ended_at,
    took: took(r.started_at, r.ended_at),
    moved: r.bytes_transferred,
    rounds: null,
    average: null,
    since: r.status_since,
    why: r.status_since ? r.status_reason : r.error,
  };
}

/** pastOfReport is the last report of a job. */
export function pastOfReport(r: Report): Past {
  const moved = r.rounds.length ? r.rounds.reduce((n, x) => n + x.bytes_transferred, 0) : r.bytes_transferred;
  const copying = r.rounds.reduce((n, x) => n + (x.duration_seconds ?? 0), 0);
  return {
    id: r.job_id,
    name: nameOf(r),
    path: r.vm.path,
    node: r.node ?? '',
    status: r.status,
    createdAt: r.created_at,
    endedAt: r.ended_at,
    took: took(r.started_at, r.ended_at),
    moved,
    rounds: r.rounds.length,
    average: copying > 0 ? moved / copying : null,
    since: null,
    why: r.error?.message ?? '',
  };
}
