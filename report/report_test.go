package report_test

import (
	"testing"

	"github.com/vmferry/vmferry/report"
)

func TestVersionsOrderReports(t *testing.T) {
	order := []string{"0-0", "0-1", "7-1", "7-2", "7-10", "10-1"}
	for i := range order[1:] {
		a, ok1 := report.ParseVersion(order[i])
		b, ok2 := report.ParseVersion(order[i+1])
		if !ok1 || !ok2 || !a.Less(b) || b.Less(a) || a.Less(a) || a.String() != order[i] {
			t.Errorf("%s and %s", order[i], order[i+1])
		}
	}
	for _, s := range []string{"", "1", "a-1", "1-a", "-1-1", "1--1", "1-1-1", "99999999999999999999-1"} {
		if _, ok := report.ParseVersion(s); ok {
			t.Errorf("%q was accepted", s)
		}
	}
}
