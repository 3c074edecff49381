// What a page reads again and again while it is shown.
import { live } from '../live/live.svelte';
import { problemOf, type Problem } from './api';

/** Poll reads a value at once and then at an interval, for as long as the component that made it is there. */
export class Poll<T> {
  value = $state.raw<T | null>(null);
  /** problem is why the newest reading failed; null if it did not. */
  problem = $state.raw<Problem | null>(null);
  /** readAt is when the value was read, by the daemon's clock in ms; 0 for never. */
  readAt = $state(0);
  readonly #read: () => Promise<T>;
  #run = 0; // readings that were begun

  constructor(read: () => Promise<T>, every: number) {
    this.#read = read;
    $effect(() => {
      let over = false;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const next = async () => {
        await this.again();
        if (!over) timer = setTimeout(() => void next(), every);
      };
      void next();
      return () => {
        over = true;
        clearTimeout(timer);
      };
    });
  }

  /** again reads now. A reading that ends after a later one has begun changes nothing. */
  again = async (): Promise<void> => {
    const mine = ++this.#run;
    try {
      const value = await this.#read();
      if (mine !== this.#run) return;
      this.value = value;
      this.readAt = live.serverNow();
      this.problem = null;
    } catch (e) {
      if (mine === this.#run) this.problem = problemOf(e);
    }
  };
}
