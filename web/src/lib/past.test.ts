import { describe, expect, test } from 'vitest';
import { pastOfReport, pastOfRow } from './past';

describe('the past', () => {
  test('a row of a job that is not seen says since when and why, not what it failed with before', () => {
    const p = pastOfRow({
      job_id: 'a',
      started_at: '2026-11-30T10:00:00Z',
      ended_at: null,
      status: 'lost',
      status_since: '2026-11-30T11:00:00Z',
      status_reason: 'unknown there',
      error: 'full',
    } as never);
    expect([p.why, p.since, p.took]).toEqual(['unknown there', '2026-11-30T11:00:00Z', null]);
  });
  test('a row without the name of a VM has that of the job', () => {
    const row = (vm_name: string) => pastOfRow({ job_id: 'a', vm_name, started_at: null, ended_at: null } as never);
    expect([row('').name, row('web').name]).toEqual(['a', 'web']);
  });
  test('a report counts all its rounds', () => {
    const round = { bytes_transferred: 100, duration_seconds: 10 };
    const p = pastOfReport({
      vm: { name: 'web', path: '' },
      rounds: [round, round],
      bytes_transferred: 100,
      started_at: '2026-11-30T10:00:00Z',
      ended_at: '2026-11-30T10:01:00Z',
      error: null,
    } as never);
    expect([p.moved, p.average, p.took, p.rounds]).toEqual([200, 10, 60, 2]);
  });
});
