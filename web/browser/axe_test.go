package browser_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// axe is axe-core, which finds what people with a screen reader, a keyboard or weak eyes cannot use. It is data of the
// tests: nothing of it is in the page or in the daemon.
var axe = sync.OnceValues(func() (string, error) {
	text, err := os.ReadFile("testdata/axe.min.js")
	return string(text), err
})

// accessible fails for each rule of axe-core that what is on the screen breaks.
func (p *page) accessible(screen string) {
	p.Helper()
	script, err := axe()
	p.must(err)
	if !value[bool](p, "typeof axe === 'object'") {
		value[bool](p, "(() => {"+script+"\nreturn true; })()")
	}
	for _, v := range value[[]string](p, `axe.run(document, {resultTypes: ['violations']}).then((r) =>
		r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target.join(' ') + ' ' + n.html.slice(0, 160) + ' ' +
			n.any.map((a) => a.message).join(', ')).join('\n    ')))`) {
		p.Errorf("%s: %s", screen, v)
	}
}

// schemes are the two themes.
var schemes = []string{"light", "dark"}

// fits fails if the page is wider than the screen, and names what sticks out.
func (p *page) fits(screen string, width int) {
	p.Helper()
	if got := value[int](p, "document.documentElement.scrollWidth"); got <= width {
		return
	}
	p.Errorf("%s is %d px wide, want %d: %s", screen, value[int](p, "document.documentElement.scrollWidth"), width,
		strings.Join(value[[]string](p, fmt.Sprintf(`[...document.querySelectorAll('body *')].filter((e) =>
			e.getBoundingClientRect().right > %d && ![...e.children].some((c) => c.getBoundingClientRect().right > %d))
			.slice(0, 5).map((e) => e.outerHTML.slice(0, 160))`, width, width)), "\n"))
}
