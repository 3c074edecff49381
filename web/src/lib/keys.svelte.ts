// Keys of the page. They hold while no field has the focus and no dialog is open.
type Keys = Record<string, (e: KeyboardEvent) => void>;

const layers: Keys[] = [];

/** keysOf adds keys until the returned function is called. The newest come first. */
export function keysOf(keys: Keys): () => void {
  layers.unshift(keys);
  return () => {
    const at = layers.indexOf(keys);
    if (at >= 0) layers.splice(at, 1);
  };
}

export function listen(): void {
  document.addEventListener('keydown', (e) => {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || busy(e)) return;
    const f = layers.find((l) => e.key in l)?.[e.key];
    if (!f) return;
    e.preventDefault();
    f(e);
  });
}

function busy(e: KeyboardEvent): boolean {
  if (document.querySelector('[role=dialog], [role=menu]')) return true;
  const at = e.target as HTMLElement | null;
  if (!at) return false;
  if (at.isContentEditable || at.tagName === 'TEXTAREA' || at.tagName === 'SELECT') return true;
  if (at.tagName === 'INPUT') return (at as HTMLInputElement).type !== 'checkbox' || e.key === 'Enter';
  return e.key === 'Enter' && (at.tagName === 'BUTTON' || at.tagName === 'A');
}
