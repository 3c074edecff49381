// Who uses the page, and what they may do.
import { live } from '../live/live.svelte';

export type Role = 'viewer' | 'operator' | 'admin';
type Session = { open: boolean; name: string; role: Role; expires_at: string | null };

const rank: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

class Who {
  state = $state<'asking' | 'in' | 'out'>('asking');
  session = $state.raw<Session>({ open: true, name: '', role: 'admin', expires_at: null });

  /** ask finds out whether there is a session. A daemon that knows none is open. */
  async ask(): Promise<void> {
    try {
      const a = await fetch('/api/v1/session', { cache: 'no-store' });
      if (a.status === 401) {
        this.state = 'out';
        return;
      }
      if (a.ok) this.session = (await a.json()) as Session;
    } catch {
      // The daemon is away; the banner says so.
    }
    this.state = 'in';
  }

  /** login returns '' or why the token was refused. */
  async login(token: string): Promise<string> {
    try {
      const a = await fetch('/api/v1/session', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ token }),
      });
      if (!a.ok) {
        const p = (await a.json().catch(() => ({}))) as { detail?: string; title?: string; next?: string };
        const wait = a.headers.get('Retry-After');
        const why = p.detail || p.title || `the daemon answered ${a.status}`;
        return wait ? `${why}; try again in ${wait} s` : why;
      }
      this.session = (await a.json()) as Session;
      this.state = 'in';
      live.again();
      return '';
    } catch {
      return 'the daemon does not answer';
    }
  }

  async logout(): Promise<void> {
    try {
      await fetch('/api/v1/session', { method: 'DELETE' });
    } finally {
      location.assign('/login');
    }
  }

  may(role: Role): boolean {
    return rank[this.session.role] >= rank[role];
  }
}

export const who = new Who();
