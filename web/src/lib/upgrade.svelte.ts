// Whether the daemon serves another build of the page than this one. Each build has its own ETag at /.
const apart = 3000; // ms between two looks
const most = 5; // looks without an answer, after which the next one waits for the next time that the stream is live

class Upgrade {
  needed = $state(false);
  #tag = '';
  #looked = -Infinity; // performance.now()
  #planned = false;
  #vain = 0; // looks in a row without a tag: the daemon is away, or a proxy leaves the tag out

  async start(): Promise<void> {
    this.#tag = await this.#ask();
  }

  /** look asks now, or as soon as the last look is long enough ago. One that brought no tag is repeated some times. */
  async look(): Promise<void> {
    this.#vain = 0;
    await this.#again();
  }

  async #again(): Promise<void> {
    if (this.needed || this.#planned) return;
    const early = this.#looked + apart - performance.now();
    if (early > 0) {
      this.#plan(early);
      return;
    }
    this.#looked = performance.now();
    const tag = await this.#ask();
    if (!tag && ++this.#vain < most) this.#plan(apart);
    else if (!tag) return;
    else if (this.#tag && tag !== this.#tag) this.needed = true;
    else this.#tag = tag;
  }

  #plan(ms: number): void {
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      void this.#again();
    }, ms);
  }

  /** missing is called when a part of the page can't be loaded: the daemon is away, or serves another build. */
  async missing(): Promise<void> {
    const tag = await this.#ask();
    if (tag && this.#tag && tag !== this.#tag) this.needed = true;
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
