package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// found runs the checker on one file and returns each finding as "line: what", cut off before what to write instead.
func found(name, src string) []string {
	var out []string
	for _, f := range newChecker().file(name, []byte(src)) {
		what, _, _ := strings.Cut(f.what, ": ")
		out = append(out, strconv.Itoa(f.line)+": "+what)
	}
	return out
}

func want(t *testing.T, name, src string, want ...string) {
	t.Helper()
	if got := found(name, src); !slices.Equal(got, want) {
		t.Errorf("%s\n%s\nfound %q, want %q", name, src, got, want)
	}
}

func TestACoinedWordIsFoundInEachPlaceOfGo(t *testing.T) {
	for place, line := range map[string]string{
		"function":         "func piece() {}",
		"method":           "func (x) pieceOf() {}",
		"receiver":         "func (piece x) of() {}",
		"parameter":        "func f(pieces int) {}",
		"result":           "func f() (aPiece int) { return }",
		"type":             "type piece struct{}",
		"type parameter":   "func f[Piece any]() {}",
		"field":            "type x struct{ pieceSize int }",
		"embedded type":    "type x struct{ piece }",
		"method asked for": "type x interface{ Piece() }",
		"variable":         "var piece int",
		"local variable":   "func f() { piece := 1; _ = piece }",
		"constant":         "const mostPieces = 1",
		"selector":         "var a = b.Pieces",
		"key":              "var a = b{piece: 1}",
		"label":            "func f() { piece: for { break piece } }",
		"import's name":    `import piece "fmt"`,
		"test's name":      "func TestAPieceIsCopied() {}",
		"snake case":       "var a_piece_takes int",
		"after initials":   "var TLSPiece int",
		"before a number":  "var piece2 int",
		"capitals":         "const PIECE = 1",
		"comment":          "// One piece of it.",
		"block comment":    "/* one piece */",
		"comment after":    "var a int // of a piece",
		"directive":        "var a int //nolint:gosec // a piece of it",
		"capitalised":      "// Pieces are counted.",
		"before a hyphen":  "// It is piece-wise.",
		"before a quote":   "// A piece's length.",
		"string":           `var a = "of a piece"`,
		"name in a string": `var a = "pieceSize"`,
		"raw string":       "var a = `a piece`",
		"after an escape":  `var a = "one\npiece"`,
		"argument":         `func f() { g("x", "no piece of %s") }`,
		"documented field": "type x struct{ A int `json:\"a\" doc:\"of a piece\"` }",
	} {
		t.Run(place, func(t *testing.T) {
			got := found("a/b.go", "package b\n\n"+line+"\n")
			if len(got) != 1 || !strings.HasPrefix(got[0], `3: word "piece`) {
				t.Errorf("%s: found %q", line, got)
			}
		})
	}
	want(t, "a/b.go", "package keeper\n", `1: word "keeper"`)
}

func TestLinesAreThoseOfTheWord(t *testing.T) {
	want(t, "a/b.go", "package b\n\n/*\none\nlane\n*/\nvar a = `one\ntwo\nlanes`\n\n// Of movers.\n",
		`5: word "lane"`, `9: word "lanes"`, `11: word "movers"`)
	want(t, "a/b.go", "package b\n\nvar a, lane = lane, \"lane\" // lane\n", `3: word "lane"`)
}

func TestEachFormOfTheListIsFoundWithWhatToWrite(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range coined() {
		for form := range strings.FieldsSeq(e.forms) {
			if form != strings.ToLower(form) || seen[form] || e.write == "" {
				t.Errorf("entry %q of %+v", form, e)
			}
			seen[form] = true
			got := newChecker().file("README.md", []byte("It is a "+form+" here.\n"))
			want := "README.md:1: word " + strconv.Quote(form) + ": write " + e.write
			if len(got) != 1 || got[0].String() != want {
				t.Errorf("found %v, want %s", got, want)
			}
		}
	}
}

func TestACoinedWordIsFoundInEveryKindOfFile(t *testing.T) {
	for _, name := range []string{
		"README.md", "docs/adr.md", "Makefile", "scripts/setup", ".ci/run", ".golangci.yml", "deploy/vmferry.yaml",
		"deploy/vmferry.service", "a/testdata/b.txt", "a/testdata/b.txtar", "http/docs.html", "http/docs.css",
		"store/publish.lua", "store/1.sql", "docs/img/demo.svg", "store/testdata/journals/README.md",
	} {
		want(t, name, "one\nfor each lane, somebody's laneSize and lane_size\n", `2: word "lane"`, `2: word "somebody"`)
	}
	want(t, "Makefile", `@printf 'one\nlane\tlanes'`, `1: word "lane"`, `1: word "lanes"`)
}

func TestANameOfAFileIsFound(t *testing.T) {
	want(t, "a/lane_test.go", "package a\n", `1: word "lane" in the file's name`)
	want(t, "a/lanes/b.txt", "\n", `1: word "lanes" in the file's name`)
	want(t, "a/lanes/b.gz", "\x00", `1: word "lanes" in the file's name`)
}

func TestLongerWordsAreNotFound(t *testing.T) {
	for _, text := range []string{
		"understanding", "masterpiece", "planes", "airplane", "gatekeeper", "remover", "redoubt", "fellow",
		"Misunderstanding", "removers", "bookkeeper", "piecemeal", "outletting", "MOVERSIZE",
	} {
		want(t, "README.md", text+"\n")
		want(t, "a/b.go", "package b\n\n// "+text+"\nvar "+text+" = \""+text+"\"\n")
	}
}

func TestWhatIsStoredMayStay(t *testing.T) {
	for _, word := range stored() {
		want(t, "job/testdata/a.txt", word+" disk=1\n")
		want(t, "a/b.go", "package b\n\nvar a = `\"type\":\""+word+"\"` // "+word+"\n")
	}
	want(t, "a/b.go", "package b\n\nvar a = \"disk_fell_down\"\n", `3: word "fell"`)
	want(t, "a/b.go", "package b\n\ntype diskFell struct{}\n", `3: word "fell"`)
}

func TestNamesOnTheWireMayStayInTags(t *testing.T) {
	const before, after = "package b\n\ntype a struct {\n\tB int `", "`\n}\n"
	want(t, "a/b.go", before+`json:"lanes" koanf:"lane" path:"piece" enum:"keeper"`+after)
	want(t, "a/b.go", before+`json:"lanes" doc:"of lanes"`+after, `4: word "lanes"`)
	want(t, "a/b.go", "package b\n\nvar a = `json:\"lanes\"`\n", `3: word "lanes"`)
}

func TestExemptFilesAreNotRead(t *testing.T) {
	const text = "// a lane\npackage a\n"
	for _, name := range []string{
		"go.sum", "tools/go.sum", "store/testdata/journals/1-a.db.gz", "scripts/words/list.go",
		"scripts/words/words_internal_test.go",
	} {
		want(t, name, text)
	}
	for _, name := range []string{"go.summary", "store/testdata/journals/a.txt", "scripts/words/main.go", "a/list.go"} {
		want(t, name, text, `1: word "lane"`)
	}
	for _, e := range exemptions() {
		if e.reason == "" {
			t.Errorf("%s has no reason", e.pattern)
		}
	}
}

func TestGeneratedGoIsNotRead(t *testing.T) {
	text := "package a\n\nvar lane = 1 " + strings.Repeat("/", mostColumns) + "\n"
	want(t, "a/b.go", "// Code generated by protoc-gen-go. DO NOT EDIT.\n\n"+text)
	want(t, "a/b.go", "// Code that was generated.\n\n"+text, `5: word "lane"`, "5: 133 columns")
}

func TestTheChangelogsPastMayStay(t *testing.T) {
	want(t, changelog, "# Changelog\n\n"+unreleased+"\n- A lane.\n\n## 1.0\n- Another lane.\n", `4: word "lane"`)
	want(t, changelog, unreleased+"\n- A lane.\n"+beforeTheList+" while it was in lanes.\n- Lanes.\n", `2: word "lane"`)
	want(t, "docs/"+changelog, unreleased+"\n## 1.0\n- A lane.\n", `3: word "lane"`)
}

func TestNoTextIsNotRead(t *testing.T) {
	want(t, "a/b.db", "a lane\x00\n")
}

func TestLongLinesOfGo(t *testing.T) {
	wide := strings.Repeat("x", mostColumns)
	for _, tc := range []struct {
		line string
		want []string
	}{
		{"// " + wide[3:], nil},
		{"// " + wide[2:], []string{"3: 121 columns"}},
		{"\t// " + wide[7:], nil},
		{"\t// " + wide[6:], []string{"3: 121 columns"}},
		{"//\t\t" + wide[10:], nil},
		{"//\t\t" + wide[9:], []string{"3: 121 columns"}},
		{"// " + strings.Repeat("ä", mostColumns-3), nil},
		{"var a = \"" + wide + "\"", []string{"3: 130 columns"}},
		{"var a = `\n" + wide + "x`", []string{"4: 122 columns"}},
		{"import _ \"" + wide + "\"", nil},
		{"import (\n\t_ \"" + wide + "\"\n)", nil},
		{"//go:embed " + wide, nil},
		{"// go:embed " + wide, []string{"3: 132 columns"}},
	} {
		want(t, "a/b.go", "package b\n\n"+tc.line+"\n", tc.want...)
	}
	want(t, "README.md", wide+"x\n")
	for _, name := range []string{"web/src/pages/A.svelte", "web/src/lib/a.ts", "web/src/a.css"} {
		want(t, name, wide+"\n"+wide+"x\n", "2: 121 columns")
	}
	want(t, "web/dist/assets/a.js", wide+"x\n")
}

func TestNextSteps(t *testing.T) {
	const (
		begin = "begin"
		end   = "end"
	)
	for _, tc := range []struct{ next, want string }{
		{`""`, ""},
		{`"Name a target of at least that size"`, ""},
		{`"Stop it. Then start it again"`, ""},
		{`"vmferry get jobs lists them"`, ""},
		{"`Raw`", ""},
		{`"É" + x`, ""},
		{`"name another target"`, begin},
		{`"vmferryd is missing"`, begin},
		{`"/var is full: make room"`, begin},
		{`"Name another target."`, end},
		{"`Name another target.`", end},
		{`"Name another target..."`, end},
		{`"Name " + x + "."`, end},
		{`"name " + x`, begin},
		{`("name " + x) + y`, begin},
		{`"Name one of " + x + y + " or none"`, ""},
		{`x + " is full."`, end},
		{`x + " is full"`, ""},
		{`x`, ""},
		{`f("name it.")`, ""},
		{`fmt.Sprintf("Name %d", 1)`, ""},
		{`fmt.Sprintf("name %d", 1)`, begin},
		{`fmt.Sprintf("Name %d.", 1)`, end},
		{`nextStep`, begin},
	} {
		for _, form := range []string{
			`job.Errorf("op", job.IO, ` + tc.next + `, "no %s.", x)`,
			`&job.Error{Op: "op", Next: ` + tc.next + `, Err: x}`,
			`[]*job.Error{job.Errorf("op", job.IO, ` + tc.next + `, "")}`,
		} {
			const rest = "\nconst nextStep = \"mend it\"\n\nvar a = "
			own, as := strings.ReplaceAll(form, "job.", ""), strings.ReplaceAll(form, "job.", "j.")
			checkNext(t, "package b\n\nimport \"github.com/vmferry/vmferry/job\"\n"+rest+form, tc.want)
			checkNext(t, "package b\n\nimport j \"github.com/vmferry/vmferry/job\"\n"+rest+as, tc.want)
			checkNext(t, "package job\n"+rest+own, tc.want)
			checkNext(t, "package b\n\nimport \"github.com/vmferry/other/job\"\n"+rest+form, "")
		}
	}
	checkNext(t, "package b\n\nvar a = fmt.Errorf(\"a\", b, \"c.\")\n", "")
	checkNext(t, "package job\n\nvar a, b = fmt.Errorf(x, y, \"c.\"), Other{Next: \"c.\"}\n", "")
}

// checkNext wants one finding about a next step, that says to begin or to end otherwise; none for "".
func checkNext(t *testing.T, src, want string) {
	t.Helper()
	got := newChecker().file("a/b.go", []byte(src))
	if len(got) == 0 && want == "" {
		return
	}
	if len(got) != 1 || want == "" || !strings.HasPrefix(got[0].what, "next step") ||
		!strings.Contains(got[0].what, ": "+want+" ") {
		t.Errorf("%s\nfound %v, want %q", src, got, want)
	}
}

func TestRecordsOfDecisions(t *testing.T) {
	const name = "docs/adr/0010-queue-depth.md"
	want(t, name, "# 10. Queue depth is adaptive\n\nText.\n")
	for _, first := range []string{
		"", "# Queue depth", "10. Queue depth", "## 10. Queue depth", "# 010. Queue depth", "# 11. Queue depth",
		"# 10 Queue depth", "# 10. ", "# 10. Queue depth is adaptive.", "\n# 10. Queue depth",
	} {
		want(t, name, first+"\n", "1: first line "+strconv.Quote(strings.SplitN(first, "\n", 2)[0]))
	}
	want(t, "docs/adr/queue-depth.md", "# 10. Queue depth\n", `1: first line "# 10. Queue depth"`)
	want(t, "docs/other.md", "Other\n")
}

func TestWhatIsNotGoIsFound(t *testing.T) {
	want(t, "a/b.go", "package b\n\nfunc {\n", "3: not Go")
}

func TestTheFilesOfTheIndexAreChecked(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(code int, want string) {
		t.Helper()
		var out, problems bytes.Buffer
		if got := run(t.Context(), dir, &out, &problems); got != code || out.String() != want {
			t.Errorf("exit %d, %q, %q; want %d, %q", got, out.String(), problems.String(), code, want)
		}
	}
	check(exitFailed, "") // no repository
	git("init", "-q")
	write("ä.md", "one\na lane\n")
	check(exitOK, "")
	git("add", ".")
	check(exitFailed, "ä.md:2: word \"lane\": write thread\n")
	write("ä.md", "one\na thread\n")
	check(exitOK, "")
	if err := os.Remove(filepath.Join(dir, "ä.md")); err != nil {
		t.Fatal(err)
	}
	check(exitOK, "")
}
