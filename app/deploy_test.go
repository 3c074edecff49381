package app_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/vmferry/vmferry/app"
)

func TestTheExampleConfigurationIsTheDefaultsOfAnAppliance(t *testing.T) {
	got, _, err := app.Load(app.Sources{File: "../deploy/vmferry.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	want := app.DefaultConfig()
	want.Listen, want.StateDir, want.Targets.Roots = "127.0.0.1:8081", "/var/lib/vmferry",
		[]string{"/var/lib/vmferry/targets"}
	want.SQL.Driver = "sqlite"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// uncommented finds keys and list items after a comment sign; prose begins with a capital letter.
var uncommented = regexp.MustCompile(`(?m)^( *)# ((?:  )*(?:[a-z_]+:|- ).*)$`)

func TestWhatTheExampleCommentsOutIsKnown(t *testing.T) {
	text, err := os.ReadFile("../deploy/vmferry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/vmferry.yaml"
	if err := os.WriteFile(path, uncommented.ReplaceAll(text, []byte("$1$2")), 0o600); err != nil {
		t.Fatal(err)
	}
	// The password files do not exist here. Load checks that after all keys and values.
	_, _, err = app.Load(app.Sources{File: path})
	if err == nil || !strings.Contains(err.Error(),
		"vcenter.password_file: /etc/vmferry/vcenter-password does not exist") {
		t.Errorf("got %v, want it to miss the password file only", err)
	}
}

func TestTheExampleNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile("../deploy/vmferry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := yaml.Unmarshal(uncommented.ReplaceAll(text, []byte("$1$2")), &got); err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	flatten("", got, named)
	for _, key := range app.Keys() {
		if !named[key] {
			t.Errorf("deploy/vmferry.yaml does not name %s", key)
		}
	}
}

func flatten(at string, section map[string]any, named map[string]bool) {
	for key, value := range section {
		named[at+key] = true
		if more, ok := value.(map[string]any); ok {
			flatten(at+key+".", more, named)
		}
	}
}
