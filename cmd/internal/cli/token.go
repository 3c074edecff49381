package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const tokenHelp = `Makes, lists and revokes the tokens by which a daemon knows who sends a request. A daemon asks for
them at every address that others can reach, and also on loopback if auth.required is set.

A token has a role: a viewer reads everything, an operator also submits jobs and commands them, an admin also changes
limits of the node, releases volumes and makes tokens. It is shown once, when it is made; the daemon keeps a digest.

Only an admin makes tokens. For the first one no token is needed: where a daemon asks for tokens, it also serves
STATE_DIR/run/admin.sock, which its own user and root can use. vmferry serve writes that address to its log.`

//nolint:gosec // examples, no secret
const tokenExample = `
  sudo vmferry token create ops --role admin --out ops.token --server unix:/var/lib/vmferry/run/admin.sock
  vmferry token create grafana --role viewer --expires 365d --out grafana.token
  vmferry token list
  vmferry token revoke grafana`

func newTokenCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "token", Short: "Who may do what at the daemon", Long: tokenHelp, Args: cobra.NoArgs,
		Example: strings.TrimPrefix(tokenExample, "\n"),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newTokenCreateCommand(s), newTokenListCommand(s), newTokenRevokeCommand(s))
	return c
}

func newTokenCreateCommand(s Streams) *cobra.Command {
	var role, expires, file string
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a token, and show it this once", Args: cobra.ExactArgs(1),
		Long:    "Writes the token to standard output, or with --out into a new file that only this user can read.",
		Example: "  vmferry token create grafana --role viewer --expires 365d --out grafana.token",
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML)
	c.Flags().StringVar(&role, "role", string(job.Viewer), "viewer, operator or admin")
	c.Flags().StringVar(&expires, "expires", "90d", "when the token ends, as in 12h or 365d, or never")
	c.Flags().StringVar(&file, "out", "", "new file for the token; it gets mode 0600")
	c.RunE = func(c *cobra.Command, args []string) error {
		r := rest.TokenRequest{Name: args[0]}
		var err error
		if r.Role, err = job.ParseRole(role); err != nil {
			return Usage("--role: %w", err)
		}
		if r.ExpiresInSeconds, err = seconds(expires); err != nil {
			return Usage("--expires: %w", err)
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		return createToken(c.Context(), s, cl, r, out, file)
	}
	return c
}

// seconds reads a time such as 12h or 90d; 0 for never.
func seconds(text string) (*int64, error) {
	const day = 24 * time.Hour
	n := int64(0)
	if text == "never" {
		return &n, nil
	}
	bad := errors.New("use a time such as 12h or 90d, or never")
	if days, ok := strings.CutSuffix(text, "d"); ok {
		const most = 3650 // as the daemon takes it
		count, err := strconv.Atoi(days)
		if err != nil || count < 1 || count > most {
			return nil, bad
		}
		n = int64(count) * int64(day.Seconds())
		return &n, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		return nil, bad
	}
	n = int64(d.Seconds())
	return &n, nil
}

// createToken opens the file first: a token that could not be written anywhere would be lost.
func createToken(ctx context.Context, s Streams, cl *rest.Client, r rest.TokenRequest, out *Output, file string) error {
	var to *os.File
	if file != "" {
		var err error
		to, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return job.Errorf("write token", job.Conflict, "Name a new file", "%s exists", file)
		}
		if err != nil {
			return job.SystemError("write token", "Name a file in a folder where you may write", err)
		}
	}
	t, err := cl.CreateToken(ctx, r)
	if err != nil {
		if to != nil {
			return errors.Join(err, to.Close(), os.Remove(file))
		}
		return err
	}
	if to != nil {
		_, err := to.WriteString(t.Text + "\n")
		if err := errors.Join(err, to.Close()); err != nil {
			return job.SystemError("write token", "Revoke the token "+t.Name+", and make another one", err)
		}
		t.Text = "" // it is in the file, and needs to be nowhere else
	}
	s.Say("%s: a token of the role %s, %s", OneLine(t.Name), t.Role, endText(t.ExpiresAt))
	switch {
	case out.Structured():
		return out.Data(s.Out, t)
	case to != nil:
		s.Say("It is in %s: use it with --token-file %s or VMFERRY_TOKEN_FILE", OneLine(file), OneLine(file))
		return nil
	}
	s.Say("It is not shown again. Write it into a file with mode 0600, for --token-file")
	_, err = fmt.Fprintln(s.Out, t.Text)
	return err
}

func endText(at *time.Time) string {
	if at == nil {
		return "without end"
	}
	return "until " + timeText(at)
}

func newTokenListCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the tokens", Args: cobra.NoArgs,
		Example: "  vmferry token list -o wide",
		Long:    "Lists the tokens, the oldest first. An empty list is no error: -o json prints [].",
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsTable, AsWide, AsJSON, AsYAML, AsName)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		list, err := cl.Tokens(c.Context())
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, list)
		}
		return writeTokens(s, list, out.String(), time.Now())
	}
	return c
}

func writeTokens(s Streams, list []rest.Token, form string, now time.Time) error {
	head := []string{"NAME", "ROLE", "EXPIRES", "LAST USED"}
	if form == AsWide {
		head = append(head, "CREATED", "CREATED BY", "ID")
	}
	rows := make([][]string, 0, len(list))
	for _, t := range list {
		if form == AsName {
			fmt.Fprintln(s.Out, OneLine(t.Name))
			continue
		}
		ends := "never"
		if t.ExpiresAt != nil {
			if ends = timeText(t.ExpiresAt); !now.Before(*t.ExpiresAt) {
				ends += " (expired)"
			}
		}
		row := []string{t.Name, string(t.Role), ends, timeText(t.LastUsedAt)}
		if form == AsWide {
			row = append(row, timeText(&t.CreatedAt), t.CreatedBy, t.ID)
		}
		rows = append(rows, row)
	}
	if form == AsName {
		return nil
	}
	if len(list) == 0 {
		s.Say("There are no tokens. Make one with: vmferry token create NAME --role ROLE")
		return nil
	}
	return Table(s.Out, head, rows)
}

func newTokenRevokeCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "revoke NAME|ID...", Short: "End tokens at once", Args: cobra.MinimumNArgs(1),
		Example: "  vmferry token revoke grafana",
		Long:    "Ends tokens: later requests with them are refused, and logins and event streams of theirs end now.",
	}
	at := serverFlag(c, s)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		list, err := cl.Tokens(c.Context())
		if err != nil {
			return err
		}
		var errs []error
		for _, word := range args {
			errs = append(errs, revokeToken(c.Context(), s, cl, list, word))
		}
		return errors.Join(errs...)
	}
	return c
}

func revokeToken(ctx context.Context, s Streams, cl *rest.Client, list []rest.Token, word string) error {
	for _, t := range list {
		if t.Name != word && t.ID != word {
			continue
		}
		if err := cl.RevokeToken(ctx, t.ID); err != nil {
			return err
		}
		s.Say("%s: revoked", OneLine(t.Name))
		return nil
	}
	return job.Errorf("revoke token", job.NotFound, "List the tokens: vmferry token list", "there is no token %q",
		Clip(word, 80))
}
