// What a tab and the hub say to each other.
import type { Report, Row } from '../lib/model';

/** Link is how the hub reaches the daemon. Times are those of the daemon's clock as far as it is known, in ms. */
export type Link =
  | { state: 'connecting' }
  | { state: 'live' }
  /** The stream is silent, as through a proxy that keeps answers back: the page asks every two seconds. */
  | { state: 'polling'; since: number }
  | { state: 'lost'; since: number; why: string }
  | { state: 'refused' }; // no session, or one that has ended

export type ToTab =
  | { type: 'all'; rows: Row[]; full: Report[] }
  | { type: 'some'; rows: Row[]; gone: string[]; full: Report[] }
  | { type: 'link'; link: Link }
  | { type: 'time'; server: number };

export type ToHub =
  | { type: 'hello'; watch: string[] }
  | { type: 'watch'; watch: string[] }
  | { type: 'seen'; seen: boolean } // a tab that is not seen gets only the jobs that it watches
  | { type: 'again' } // connect now
  | { type: 'bye' };
