import { describe, expect, test } from 'vitest';
import * as f from './format';

describe('numbers', () => {
  test('a size has at most one decimal, and none that is zero', () => {
    expect(f.bytes(0)).toBe('0 B');
    expect(f.bytes(1023)).toBe('1023 B');
    expect(f.bytes(871 * 2 ** 20)).toBe('871 MiB');
    expect(f.bytes(1.5 * 2 ** 30)).toBe('1.5 GiB');
    expect(f.bytes(2 ** 40 - 1)).toBe('1 TiB');
  });
  test('what is not known is a dash', () => {
    for (const write of [f.bytes, f.rate, f.percent, f.duration, f.share, f.whole]) {
      expect(write(null)).toBe('–');
      expect(write(undefined)).toBe('–');
      expect(write(Number.NaN)).toBe('–');
    }
  });
  test('only what is complete is 100 %', () => {
    expect(f.percent(99.99)).toBe('99.9 %');
    expect(f.percent(100)).toBe('100 %');
    expect(f.percent(0)).toBe('0.0 %');
  });
  test('a duration has two units', () => {
    expect(f.duration(7.24)).toBe('7.2 s');
    expect(f.duration(59.4)).toBe('59 s');
    expect(f.duration(59.6)).toBe('1 min');
    expect(f.duration(252)).toBe('4 min 12 s');
    expect(f.duration(3 * 3600 + 300)).toBe('3 h 5 min');
    expect(f.duration(52 * 3600)).toBe('2 d 4 h');
    expect(f.duration(-3)).toBe('0 s');
  });
});

describe('times', () => {
  test('an age is taken from the clock of the server and is never negative', () => {
    const now = Date.parse('2026-11-30T11:00:10Z');
    expect(f.since('2026-11-30T11:00:00Z', now)).toBe(10);
    expect(f.since('2026-11-30T11:00:20Z', now)).toBe(0);
    expect(f.since(null, now)).toBeNull();
    expect(f.since('never', now)).toBeNull();
  });
});

describe('texts', () => {
  test('marks of direction and control characters are shown', () => {
    expect(f.plain('a\u202eb\u0007c\nd')).toBe('a␣b␣c␣d');
    expect(f.plain('<b>ü</b>')).toBe('<b>ü</b>');
  });
  test('a size is read with and without a unit', () => {
    expect(f.sizeIn('200MiB')).toBe(200 * 2 ** 20);
    expect(f.sizeIn('1.5 GiB/s')).toBe(1.5 * 2 ** 30);
    expect(f.sizeIn('1000')).toBe(1000);
    expect(f.sizeIn('much')).toBeNull();
  });
});
