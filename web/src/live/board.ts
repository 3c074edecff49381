// The newest report of each job. Pure: what comes in any order, twice or late ends in the same board.
import { newer, type Report } from '../lib/model';

export type Change = { set: Report[]; gone: string[] };

export class Board {
  readonly jobs = new Map<string, Report>();
  /** last is the version to resume from; '' before the first. */
  last = '';
  /** removed keeps the versions of deletions, so that a late report does not bring a job back. */
  readonly #removed = new Map<string, { epoch: number; seq: number }>();

  /** snapshot replaces everything. It returns what has changed. */
  snapshot(list: Report[], id: string): Change {
    const gone = new Set(this.jobs.keys());
    const set: Report[] = [];
    this.#removed.clear();
    for (const r of list) {
      gone.delete(r.job_id);
      const had = this.jobs.get(r.job_id);
      if (had && had.epoch === r.epoch && had.seq === r.seq) continue;
      this.jobs.set(r.job_id, r);
      set.push(r);
    }
    for (const id of gone) this.jobs.delete(id);
    this.#advance(id);
    return { set, gone: [...gone] };
  }

  /** put takes one report; false if it is not newer than the one that is there. */
  put(r: Report, id: string): boolean {
    this.#advance(id);
    const had = this.jobs.get(r.job_id);
    const removed = this.#removed.get(r.job_id);
    if ((had && !newer(r, had)) || (removed && !newer(r, removed))) return false;
    this.#removed.delete(r.job_id);
    this.jobs.set(r.job_id, r);
    return true;
  }

  /** remove forgets a job that was deleted; false if a newer report of it is there. */
  remove(job: string, version: { epoch: number; seq: number }, id: string): boolean {
    this.#advance(id);
    const had = this.jobs.get(job);
    if (had && newer(had, version)) return false;
    this.#removed.set(job, version);
    return this.jobs.delete(job);
  }

  #advance(id: string): void {
    if (id) this.last = id;
  }
}
