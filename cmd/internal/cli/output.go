package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/vmferry/vmferry/report"
)

// Output is how data is written to standard output.
type Output struct {
	form    string
	allowed []string
}

// The forms of data on standard output.
const (
	AsTable = "table"
	AsWide  = "wide"
	AsJSON  = "json"
	AsYAML  = "yaml"
	AsName  = "name"
)

// OutputFlag adds -o, with all forms or with those that are named. The first is the default.
func OutputFlag(c *cobra.Command, forms ...string) *Output {
	if len(forms) == 0 {
		forms = []string{AsTable, AsWide, AsJSON, AsYAML, AsName}
	}
	o := &Output{form: forms[0], allowed: forms}
	c.Flags().VarP(o, "output", "o", "form of the data on standard output: "+strings.Join(forms, ", "))
	// fails only for a flag that does not exist
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return o
}

// Set takes the flag's value. Set, String and Type make an Output a flag.
func (o *Output) Set(v string) error {
	if !slices.Contains(o.allowed, v) {
		return fmt.Errorf("use %s", strings.Join(o.allowed, ", "))
	}
	o.form = v
	return nil
}

func (o *Output) String() string { return o.form }

// Type names the flag's value in help texts.
func (*Output) Type() string { return "form" }

// Structured says whether data is written as JSON or YAML.
func (o *Output) Structured() bool { return o.form == AsJSON || o.form == AsYAML }

// Data writes v as JSON or YAML. Both have the same keys in the same order.
func (o *Output) Data(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if o.form == AsYAML {
		if text, err = yamlOf(text); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	_, err = jsonWriter{w}.Write(append(text, '\n'))
	return err
}

// jsonWriter writes JSON so that it does not command the terminal that shows it, and does not turn the direction of its
// text: such letters are written in their escaped form, which means the same. Each Write gets whole letters.
type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(text []byte) (int, error) {
	out := text
	// JSON itself has white space only, and has escaped the first 32 letters in its texts.
	commands := func(r rune) bool { return r >= 0x7f && report.Shown(r) != r }
	if bytes.ContainsFunc(text, commands) {
		out = make([]byte, 0, len(text)+64)
		for _, r := range string(text) {
			if commands(r) {
				out = fmt.Appendf(out, `\u%04x`, r)
			} else {
				out = utf8.AppendRune(out, r)
			}
		}
	}
	if _, err := j.w.Write(out); err != nil {
		return 0, err
	}
	return len(text), nil
}

// one writes the only element of a list as Data does, or a list of another length.
func (o *Output) one(w io.Writer, all []report.Report) error {
	if len(all) == 1 {
		return o.Data(w, all[0])
	}
	return o.Data(w, all)
}

// yamlOf rewrites JSON in the style of YAML. JSON is YAML, so the parser reads it.
func yamlOf(text []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	plain(&doc)
	return yaml.Marshal(&doc)
}

// plain takes JSON's style off a node, except of an empty list or map.
func plain(n *yaml.Node) {
	empty := len(n.Content) == 0
	if n.Kind == yaml.ScalarNode || !empty {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// Table writes rows in columns.
func Table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = OneLine(cell)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}
