// Dark, light, or what the system says.
export type Theme = 'system' | 'dark' | 'light';
const key = 'vmferry-theme';

class Themes {
  now = $state<Theme>('system');

  start(): void {
    let kept: string | null = null;
    try {
      kept = localStorage.getItem(key);
    } catch {
      // Storage is not allowed: the choice lasts as long as the tab.
    }
    this.choose(kept === 'dark' || kept === 'light' ? kept : 'system');
  }

  choose(t: Theme): void {
    this.now = t;
    document.documentElement.dataset.theme = t;
    try {
      localStorage.setItem(key, t);
    } catch {
      // as above
    }
  }

  next(): void {
    this.choose(this.now === 'system' ? 'dark' : this.now === 'dark' ? 'light' : 'system');
  }
}

export const themes = new Themes();
