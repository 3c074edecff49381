import { describe, expect, test } from 'vitest';
import { fits, nodesOf, nodeText, ownNode, type Row } from './model';

function row(job_id: string, node?: string): Row {
  return { job_id, node, status: 'running', health: [], vm: { name: job_id, path: '' } } as unknown as Row;
}

describe('nodes', () => {
  test('nothing is said of nodes where all jobs are of one', () => {
    expect(nodesOf([row('a'), row('b')])).toEqual([]);
    expect(nodesOf([row('a', 'vma-1'), row('b', 'vma-1')])).toEqual([]);
  });
  test('jobs of this daemon beside those of nodes count as a node', () => {
    expect(nodesOf([row('a', 'vma-10'), row('b'), row('c', 'vma-2')])).toEqual([ownNode, 'vma-2', 'vma-10']);
    expect(nodeText(ownNode)).toBe('this daemon');
  });
  test('a filter by node shows only its jobs', () => {
    const all = { text: '', status: '', health: '' };
    expect(fits(row('a', 'vma-1'), { ...all, node: '' })).toBe(true);
    expect(fits(row('a', 'vma-1'), { ...all, node: 'vma-1' })).toBe(true);
    expect(fits(row('a', 'vma-1'), { ...all, node: 'vma' })).toBe(false);
    expect(fits(row('a'), { ...all, node: ownNode })).toBe(true);
  });
});
