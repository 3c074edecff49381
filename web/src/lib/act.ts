// Commands to jobs, one or many.
import type { components } from '../api/schema';
import { client, problemOf, take, type Problem } from './api';
import type { Verb } from './model';

export type Options = { purge?: boolean; fresh?: boolean };
export type Outcome = { id: string; problem: Problem | null };

const most = 1000; // jobs of one request

/** command gives a verb to jobs and says for each whether it was accepted. */
export async function command(verb: Verb, ids: string[], o: Options): Promise<Outcome[]> {
  const out: Outcome[] = [];
  for (let i = 0; i < ids.length; i += most) out.push(...(await some(verb, ids.slice(i, i + most), o)));
  return out;
}

async function some(verb: Verb, ids: string[], o: Options): Promise<Outcome[]> {
  try {
    const a = await take(client.POST('/api/v1/jobs/bulk', { body: { verb, ids, ...o } }));
    return a.results.map((r) => ({ id: r.job_id, problem: r.accepted ? null : (r.problem as Problem) }));
  } catch (e) {
    const problem = problemOf(e);
    return ids.map((id) => ({ id, problem }));
  }
}

export type Limited = components['schemas']['PatchRequest'];

const limitsAtOnce = 4; // requests

/** limit changes limits of jobs and says for each whether it was accepted. each is told how many are done. While the
 * daemon says that there are too many requests, it waits. When stop is aborted, jobs that were not asked stay as they
 * are, and their outcome says so. */
export async function limit(
  ids: string[],
  change: Limited,
  each: (done: number) => void,
  stop: AbortSignal,
): Promise<Outcome[]> {
  const out: Outcome[] = [];
  let next = 0;
  const work = async () => {
    while (next < ids.length) {
      const at = next++;
      out[at] = await limitOne(ids[at] ?? '', change, stop);
      each(out.filter(Boolean).length);
    }
  };
  await Promise.all(Array.from({ length: limitsAtOnce }, work));
  return out;
}

async function limitOne(id: string, change: Limited, stop: AbortSignal): Promise<Outcome> {
  while (!stop.aborted) {
    try {
      await take(client.PATCH('/api/v1/jobs/{id}', { params: { path: { id } }, body: change }));
      return { id, problem: null };
    } catch (e) {
      const problem = problemOf(e);
      if (problem.code !== 'too_many_requests') return { id, problem };
      await pause(1000, stop);
    }
  }
  return { id, problem: { status: 0, detail: 'it was not asked, because you stopped', next: '' } };
}

/** pause waits, at most until stop is aborted. */
function pause(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    stop.addEventListener('abort', () => {
      clearTimeout(timer);
      done();
    });
  });
}
