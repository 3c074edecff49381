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
 * daemon says that there are too many requests, it waits. */
export async function limit(ids: string[], change: Limited, each: (done: number) => void): Promise<Outcome[]> {
  const out: Outcome[] = [];
  let next = 0;
  const work = async () => {
    while (next < ids.length) {
      const at = next++;
      out[at] = await limitOne(ids[at] ?? '', change);
      each(out.filter(Boolean).length);
    }
  };
  await Promise.all(Array.from({ length: limitsAtOnce }, work));
  return out;
}

async function limitOne(id: string, change: Limited): Promise<Outcome> {
  for (;;) {
    try {
      await take(client.PATCH('/api/v1/jobs/{id}', { params: { path: { id } }, body: change }));
      return { id, problem: null };
    } catch (e) {
      const problem = problemOf(e);
      if (problem.code !== 'too_many_requests') return { id, problem };
      await new Promise((again) => setTimeout(again, 1000));
    }
  }
}
