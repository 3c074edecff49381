// The address is the state: what a page shows can be sent to others, and survives a reload.

export type Name = 'migrations' | 'job' | 'new' | 'volumes' | 'history' | 'system' | 'login' | 'nothing';

class Router {
  path = $state(location.pathname);
  query = $state.raw(new URLSearchParams(location.search));

  name = $derived.by((): Name => {
    switch (this.path) {
      case '/':
        return 'migrations';
      case '/new':
      case '/volumes':
      case '/history':
      case '/system':
      case '/login':
        return this.path.slice(1) as Name;
      default:
        return this.path.startsWith('/jobs/') ? 'job' : 'nothing';
    }
  });
  /** id is the job of /jobs/{id}. */
  id = $derived(this.name === 'job' ? decode(this.path.slice('/jobs/'.length)) : '');

  start(): void {
    addEventListener('popstate', () => this.#read());
    document.addEventListener('click', (e) => {
      if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
      const a = (e.target as Element | null)?.closest?.('a');
      if (!a || a.target || a.hasAttribute('download') || a.origin !== location.origin || !ours(a.pathname)) return;
      e.preventDefault();
      this.go(a.pathname + a.search);
    });
  }

  go(to: string): void {
    if (to !== location.pathname + location.search) history.pushState(null, '', to);
    this.#read();
    scrollTo(0, 0);
  }

  get(key: string): string {
    return this.query.get(key) ?? '';
  }

  /** set writes parts of the query; '' leaves one out. It makes no new entry of the browser's history. */
  set(change: Record<string, string>): void {
    const q = new URLSearchParams(this.query);
    for (const [key, value] of Object.entries(change)) {
      if (value) q.set(key, value);
      else q.delete(key);
    }
    const text = q.toString();
    history.replaceState(null, '', location.pathname + (text ? `?${text}` : ''));
    this.query = q;
  }

  #read(): void {
    this.path = location.pathname;
    this.query = new URLSearchParams(location.search);
  }
}

function ours(path: string): boolean {
  return /^\/($|jobs\/|new$|volumes$|history$|system$|login$)/.test(path);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const router = new Router();

/** jobAt is the address of a job's page. */
export function jobAt(id: string): string {
  return `/jobs/${encodeURIComponent(id)}`;
}
