// Commands to jobs, one or many.
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
