package job_test

import (
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
)

func TestASecretIsReadWithoutWhatEditorsAdd(t *testing.T) {
	for text, want := range map[string]string{
		"geheim": "geheim", "geheim\n": "geheim", "geheim\r\n": "geheim", "\ufeffgeheim\r\n": "geheim",
		"geheim\n\n": "geheim", " ge heim ": " ge heim ", "gehe\ufeffim": "gehe\ufeffim",
	} {
		got, err := job.SecretFrom([]byte(text))
		if err != nil || got.Reveal() != want {
			t.Errorf("%q is read as %q, %v", text, got.Reveal(), err)
		}
	}
}

func TestAFileThatIsNoSecretIsRefusedWithoutQuotingIt(t *testing.T) {
	for text, word := range map[string]string{
		"": "empty", "\n": "empty", "\ufeff\r\n": "empty", "geheim\nuser": "line break", "\ngeheim": "line break",
		"geheim\rx": "line break", "\xff\xfeg\x00e\x00": "UTF-16", "ge\x00heim": "zero byte",
		strings.Repeat("geheim", 700): "4096",
	} {
		got, err := job.SecretFrom([]byte(text))
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "geheim") ||
			!got.Empty() {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}
