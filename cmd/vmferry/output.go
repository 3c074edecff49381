package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// output is how data is written to standard output.
type output struct {
	form    string
	allowed []string
}

// The forms.
const (
	asTable = "table"
	asWide  = "wide"
	asJSON  = "json"
	asYAML  = "yaml"
	asName  = "name"
)

// outputFlag adds -o with all forms, or with those that make sense for a command.
func outputFlag(c *cobra.Command, forms ...string) *output {
	if len(forms) == 0 {
		forms = []string{asTable, asWide, asJSON, asYAML, asName}
	}
	o := &output{form: forms[0], allowed: forms}
	c.Flags().VarP(o, "output", "o", "form of the data on standard output: "+strings.Join(forms, ", "))
	// fails only for a flag that is not there
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
	return o
}

// Set, String and Type make it a flag.
func (o *output) Set(v string) error {
	if !slices.Contains(o.allowed, v) {
		return fmt.Errorf("use %s", strings.Join(o.allowed, ", "))
	}
	o.form = v
	return nil
}

func (o *output) String() string { return o.form }

// Type names the flag's value in help texts.
func (*output) Type() string { return "form" }

func (o *output) structured() bool { return o.form == asJSON || o.form == asYAML }

// data writes v as JSON or YAML; both have the same keys in the same order.
func (o *output) data(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if o.form == asYAML {
		if text, err = yamlOf(text); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// yamlOf rewrites JSON, which is YAML, in YAML's own style.
func yamlOf(text []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	plain(&doc)
	return yaml.Marshal(&doc)
}

func plain(n *yaml.Node) {
	empty := len(n.Content) == 0
	if n.Kind == yaml.ScalarNode || !empty {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// table writes rows in columns.
func table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}
