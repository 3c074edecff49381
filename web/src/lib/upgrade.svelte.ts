// Whether the daemon serves another build of the page than this one. Each build has its own ETag at /.
class Upgrade {
  needed = $state(false);
  #tag = '';
  #looked = 0;

  async start(): Promise<void> {
    this.#tag = await this.#ask();
  }

  async look(): Promise<void> {
    if (!this.#tag || performance.now() - this.#looked < 3000) return;
    this.#looked = performance.now();
    const tag = await this.#ask();
    if (tag && tag !== this.#tag) this.needed = true;
  }

  /** stale is called when a part of the page can't be loaded. */
  stale(): void {
    this.needed = true;
  }

  async #ask(): Promise<string> {
    try {
      const a = await fetch('/', { method: 'HEAD', cache: 'no-store' });
      return a.ok ? (a.headers.get('ETag') ?? '') : '';
    } catch {
      return '';
    }
  }
}

export const upgrade = new Upgrade();
