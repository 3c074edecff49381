package browser_test

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"

	"github.com/vmferry/vmferry/job"
)

// downloads takes the report of a job that ended from its page, in both forms.
func (p *page) downloads(id job.ID) {
	p.Helper()
	dir := p.TempDir()
	_, err := chromedp.CallBrowser(p.Raw(), cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{
		Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir,
		BrowserContextID: chromedp.FromContext(p.Raw()).BrowserContextID,
	})
	p.must(err)
	page := p.loaded(dir, "Report", ".html")
	for _, want := range []string{string(id), "disk-2000", "disk-2001", "completed"} {
		if !strings.Contains(page, want) {
			p.Errorf("the report does not have %q", want)
		}
	}
	if got := regexp.MustCompile(`(?:src|href)="(?:https?:)?//[^"]*"|<script`).FindString(page); got != "" {
		p.Errorf("the report needs %s", got)
	}
	rows, err := csv.NewReader(strings.NewReader(p.loaded(dir, "CSV", ".csv"))).ReadAll()
	if err != nil || len(rows) < 3 {
		p.Errorf("the CSV has %d rows: %v", len(rows), err)
	}
}

// loaded clicks a link and returns the file that comes.
func (p *page) loaded(dir, link, ending string) (text string) {
	p.Helper()
	p.click("link", link)
	eventually(p, "a file *"+ending, func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*"+ending))
		if len(files) != 1 {
			return false
		}
		raw, err := os.ReadFile(files[0])
		text = string(raw)
		return err == nil && len(raw) > 0
	})
	return text
}
