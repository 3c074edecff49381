// The jobs that go on, asked for once while the page loads: they are on the screen before the hub has its snapshot.
// The daemon names this address in the head of its answer to /, so the browser asks for it beside the scripts.
import { rowOf, type Report, type Row } from '../lib/model';

const address = '/api/v1/jobs?ended=false&limit=50';
const timeout = 3500; // ms; the stream has said by then whether the daemon is there

/** First is the answer: rows, whether there are more that go on, and the daemon's time in ms at the moment `at` of
 * performance.now(). */
export type First = { rows: Row[]; more: boolean; server: number; at: number };

/** wanted says whether this address of the page shows them first: the list, in the order of who needs attention. */
export function wanted(path: string, query: URLSearchParams): boolean {
  return path === '/' && !query.has('sort');
}

/** first asks; null if the daemon does not answer, or refuses. The stream tells what is wrong then. */
export async function first(): Promise<First | null> {
  try {
    const answer = await fetch(address, { signal: AbortSignal.timeout(timeout) });
    if (!answer.ok) return null;
    const list = (await answer.json()) as Report[];
    const entry = performance.getEntriesByName(new URL(address, location.href).href).at(-1);
    const at = entry instanceof PerformanceResourceTiming ? entry.responseStart : performance.now();
    const more = answer.headers.has('Link');
    return { rows: list.map(rowOf), more, server: Number(answer.headers.get('Vmferry-Time')), at };
  } catch {
    return null;
  }
}
