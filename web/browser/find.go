package browser

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/chromedp/chromedp"
)

// finder is a script with a function that finds the first element that is seen, by its role and its name. The name is
// that which a screen reader says, or begins with it.
const finder = `
(role, name) => {
  const kinds = {
    button: 'button, [role=button]', link: 'a[href]', field: 'input, select, textarea',
    region: 'section, [role=region], article, dialog, [role=dialog]', row: '[role=row], tr', bar: '[role=progressbar]',
    heading: 'h1, h2, h3, [role=heading]',
  };
  const text = (s) => (s ?? '').replace(/\s+/g, ' ').trim();
  const named = (e) => {
    const label = e.getAttribute('aria-label');
    if (label) return text(label);
    if (e.labels?.length) return text(e.labels[0].innerText);
    return text(e.innerText) || text(e.getAttribute('title')) || text(e.getAttribute('placeholder'));
  };
  const seen = (e) => e.getClientRects().length > 0;
  const root = document.querySelector('[role=dialog]') ?? document;
  const all = [...root.querySelectorAll(kinds[role])].filter(seen);
  return all.find((e) => named(e) === name) ?? all.find((e) => named(e).startsWith(name));
}`

func quoted(text string) string {
	out, err := json.Marshal(text)
	if err != nil {
		return `""` // never of a string
	}
	return string(out)
}

// At is an expression for the first element with this role (button, link, field, region, row, bar or heading) whose
// name is, or begins with, the given one; undefined if there is none. While a dialog is open, only what is in it
// is found.
func At(role, name string) string {
	return fmt.Sprintf("(%s)(%s, %s)", finder, quoted(role), quoted(name))
}

// Click clicks, with the mouse, on what At finds, as soon as it is there and can be clicked.
func (t *Tab) Click(role, name string) error {
	const within = 10 * time.Second
	at := At(role, name)
	if _, err := t.Until(fmt.Sprintf(`(() => { const e = %s; return e && !e.disabled; })()`, at), within); err != nil {
		return fmt.Errorf("click %s %q: %w", role, name, err)
	}
	var point []float64
	var err error
	for end := time.Now().Add(within); ; {
		if point, err = t.pointOf(at); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("click %s %q: %w", role, name, err)
	}
	return chromedp.Do(t.ctx, chromedp.MouseClickXY(point[0], point[1]))
}

// pointOf brings an element into view and returns a point at which the mouse hits it, once it stays where it is.
func (t *Tab) pointOf(at string) ([]float64, error) {
	return Eval[[]float64](t, fmt.Sprintf(`(async () => {
		const e = %s;
		e.scrollIntoView({block: 'center', behavior: 'instant'});
		let r = e.getBoundingClientRect();
		for (let i = 0; i < 30; i++) {
			await new Promise((f) => setTimeout(f, 16));
			const now = e.getBoundingClientRect();
			if (now.x === r.x && now.y === r.y) break;
			r = now;
		}
		const x = r.x + Math.min(r.width / 2, r.width - 2), y = r.y + r.height / 2;
		const top = document.elementFromPoint(x, y);
		if (!top || !(e.contains(top) || top.contains(e) || [...(e.labels ?? [])].some((l) => l.contains(top)))) {
			throw new Error('it is covered by ' + top?.outerHTML.slice(0, 200));
		}
		return [x, y];
	})()`, at))
}

// Fill replaces the text of a field.
func (t *Tab) Fill(name, text string) error {
	if err := t.Click("field", name); err != nil {
		return err
	}
	if _, err := Eval[bool](t, `document.activeElement.select?.() ?? true`); err != nil {
		return err
	}
	return t.Type(text)
}
