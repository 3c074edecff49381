import { describe, expect, test } from 'vitest';
import { readDisks, readPatience, readRate } from './limits';

describe('limits', () => {
  test('a rate has a unit, a least value and none at all', () => {
    expect(readRate('')).toBeNull();
    expect(readRate('0')).toBe(0);
    expect(readRate('200MiB')).toBe(200 * 2 ** 20);
    expect(readRate(' 1.5 GiB/s ')).toBe(1.5 * 2 ** 30);
    for (const bad of ['much', '-5', '63KiB', '1', '99999999TiB']) expect(typeof readRate(bad)).toBe('string');
  });
  test('a number of disks is whole and in range', () => {
    expect(readDisks(' ')).toBeNull();
    expect(readDisks('0')).toBe(0);
    expect(readDisks('256')).toBe(256);
    for (const bad of ['257', '1.5', '-1', 'two']) expect(typeof readDisks(bad)).toBe('string');
  });
  test('a patience has units and is as long as the daemon takes it', () => {
    expect(readPatience(' ')).toBeNull();
    expect(readPatience('0')).toBe(0);
    expect(readPatience('4h')).toBe(14400);
    expect(readPatience('1h30m')).toBe(5400);
    expect(readPatience('1.5m')).toBe(90);
    expect(readPatience('720h')).toBe(2592000);
    for (const bad of ['4', 'soon', '721h', '-1h', '0.1s', '4h extra']) expect(typeof readPatience(bad)).toBe('string');
  });
});
