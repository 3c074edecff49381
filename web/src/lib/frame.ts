/** afterFrame calls f when the browser has drawn what is there now, or soon if the tab is not seen. */
export function afterFrame(f: () => void): void {
  const longest = 500; // ms; a tab that is not seen draws nothing
  let called = false;
  const once = () => {
    if (called) return;
    called = true;
    f();
  };
  if (!document.hidden) requestAnimationFrame(() => setTimeout(once));
  setTimeout(once, document.hidden ? 0 : longest);
}
