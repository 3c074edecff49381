// Requests to the daemon: typed by its own description, and failing with what it says.
import createClient from 'openapi-fetch';
import type { components, paths } from '../api/schema';
import { live } from '../live/live.svelte';

export type Problem = Partial<components['schemas']['Problem']> & { status: number; detail: string; next: string };

/** Refused is an answer that is a problem, or no answer. */
export class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

const timeout = 30_000; // ms; a submission waits for a durable row

export const client = createClient<paths>({
  baseUrl: '/',
  fetch: async (request) => {
    const answer = await fetch(request, { signal: AbortSignal.timeout(timeout) });
    live.heard(Number(answer.headers.get('Vmferry-Time')));
    return answer;
  },
});

type Answer<T> = Promise<{ data?: T; error?: unknown; response: Response }>;

/** take returns the body of an answer, or throws Refused. */
export async function take<T>(answer: Answer<T>): Promise<T> {
  return (await taken(answer)).data;
}

/** taken is take with the answer's head. */
export async function taken<T>(answer: Answer<T>): Promise<{ data: T; response: Response }> {
  let a: Awaited<Answer<T>>;
  try {
    a = await answer;
  } catch (e) {
    const late = e instanceof DOMException && e.name === 'TimeoutError';
    throw new Refused({
      status: 0,
      detail: late ? 'the daemon has not answered in time' : 'the daemon does not answer',
      next: 'Try again when the connection is back',
    });
  }
  if (a.response.ok) return { data: a.data as T, response: a.response };
  const p = (a.error ?? {}) as Partial<Problem>;
  throw new Refused({
    ...p,
    status: a.response.status,
    detail: p.detail || p.title || `the daemon answered ${a.response.status}`,
    next: p.next ?? '',
  });
}

/** problemOf is what to show of an error. */
export function problemOf(e: unknown): Problem {
  if (e instanceof Refused) return e.problem;
  return { status: 0, detail: e instanceof Error ? e.message : String(e), next: '' };
}

/** cursorOf reads the place of the next page from the header Link; null after the last page. */
export function cursorOf(r: Response): string | null {
  const link = /<([^>]+)>; *rel="next"/.exec(r.headers.get('Link') ?? '');
  return link?.[1] ? new URL(link[1], location.origin).searchParams.get('cursor') : null;
}
