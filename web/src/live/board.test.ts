import { describe, expect, test } from 'vitest';
import type { Report } from '../lib/model';
import { Board } from './board';

function report(job_id: string, epoch: number, seq: number): Report {
  return { job_id, epoch, seq } as Report;
}

describe('the board', () => {
  test('a late report does not replace a newer one', () => {
    const b = new Board();
    expect(b.put(report('a', 1, 5), '1-5')).toBe(true);
    expect(b.put(report('a', 1, 4), '1-4')).toBe(false);
    expect(b.put(report('a', 1, 5), '1-5')).toBe(false);
    expect(b.jobs.get('a')?.seq).toBe(5);
  });
  test('a higher epoch wins although its seq is lower: the daemon was started again', () => {
    const b = new Board();
    b.put(report('a', 1, 500), '1-500');
    expect(b.put(report('a', 2, 1), '2-1')).toBe(true);
    expect(b.last).toBe('2-1');
  });
  test('after a snapshot what is not in it is gone, and what is the same is not a change', () => {
    const b = new Board();
    b.snapshot([report('a', 1, 1), report('b', 1, 2)], '1-2');
    const c = b.snapshot([report('b', 1, 2), report('c', 1, 3)], '1-3');
    expect(c.gone).toEqual(['a']);
    expect(c.set.map((r) => r.job_id)).toEqual(['c']);
  });
  test('a deleted job does not come back by a late report, but by a newer one', () => {
    const b = new Board();
    b.put(report('a', 1, 1), '1-1');
    expect(b.remove('a', { epoch: 1, seq: 3 }, '1-3')).toBe(true);
    expect(b.put(report('a', 1, 2), '1-2')).toBe(false);
    expect(b.put(report('a', 1, 4), '1-4')).toBe(true);
  });
});
