// How an event of a job is marked.
import type { Entry } from './model';

/** levelOf is how an event is marked. */
export function levelOf(e: Entry): '' | 'warn' | 'good' {
  if (e.type === 'disk_fell' || e.type === 'step_fell') {
    return (e.data as { kind?: string } | null)?.kind === 'cancelled' ? '' : 'warn';
  }
  return e.type === 'set_committed' || e.type === 'disk_verified' ? 'good' : '';
}
