// Commands to jobs, one or many.
import { client, problemOf, Refused, take, type Problem } from './api';
import type { Verb } from './model';

export type Options = { purge?: boolean; fresh?: boolean };
export type Outcome = { id: string; problem: Problem | null };

const atOnce = 6; // requests to a daemon that knows no bulk route

/** command gives a verb to jobs and says for each whether it was accepted. */
export async function command(verb: Verb, ids: string[], o: Options): Promise<Outcome[]> {
  if (ids.length > 1) {
    try {
      return await bulk(verb, ids, o);
    } catch (e) {
      const p = problemOf(e);
      if (!(e instanceof Refused) || (p.status !== 404 && p.status !== 405)) {
        return ids.map((id) => ({ id, problem: p }));
      }
    }
  }
  const out: Outcome[] = [];
  for (let i = 0; i < ids.length; i += atOnce) {
    out.push(...(await Promise.all(ids.slice(i, i + atOnce).map((id) => one(verb, id, o)))));
  }
  return out;
}

type BulkAnswer = { results: { job_id: string; accepted: boolean; problem: Problem | null }[] };
type Post = (path: string, init: { body: unknown }) => ReturnType<typeof client.POST>;

async function bulk(verb: Verb, ids: string[], o: Options): Promise<Outcome[]> {
  const post = client.POST as unknown as Post;
  const a = (await take(post('/api/v1/jobs/bulk', { body: { verb, ids, ...o } }))) as unknown as BulkAnswer;
  return a.results.map((r) => ({ id: r.job_id, problem: r.accepted ? null : r.problem }));
}

async function one(verb: Verb, id: string, o: Options): Promise<Outcome> {
  try {
    await send(verb, id, o);
    return { id, problem: null };
  } catch (e) {
    return { id, problem: problemOf(e) };
  }
}

function send(verb: Verb, id: string, o: Options): Promise<unknown> {
  const path = { id };
  switch (verb) {
    case 'delete':
      return take(client.DELETE('/api/v1/jobs/{id}', { params: { path } }));
    case 'cancel':
      return take(client.POST('/api/v1/jobs/{id}/cancel', {
        params: { path, query: o.purge ? { purge: true } : {} },
      }));
    case 'retry':
      return take(client.POST('/api/v1/jobs/{id}/retry', {
        params: { path, query: o.fresh ? { fresh: true } : {} },
      }));
    default:
      return take(client.POST(`/api/v1/jobs/{id}/${verb}`, { params: { path } }));
  }
}
