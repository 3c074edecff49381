package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/cert"
)

const (
	certHelp = `Makes the certificates by which a VMA and an OMA know each other. They need no daemon: they are files in
a folder, which link.certificates names in the daemon's configuration. A running daemon reads new files within a second.

Run them as the user of the daemon, so that it can read what they make: sudo -u vmferry vmferry cert ...`
	certExample = `  sudo -u vmferry vmferry cert ca
  sudo -u vmferry vmferry cert node oma --role oma
  sudo -u vmferry vmferry cert node vma-1 --role vma --out ./vma-1
  sudo -u vmferry vmferry cert revoke vma-1`
	standardCertificates = "/var/lib/vmferry/link"
	dirUsage             = "folder of the authority"
)

func newCertCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "cert", Short: "Certificates of nodes", Long: certHelp, Example: certExample, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCertCA(s), newCertNode(s), newCertRevoke(s), newCertShow(s))
	return c
}

func newCertCA(s Streams) *cobra.Command {
	var dir, life string
	c := &cobra.Command{
		Use: "ca", Short: "Make the authority", Args: cobra.NoArgs, Example: "  sudo -u vmferry vmferry cert ca",
		Long: `Makes the key of an authority (ca.key, mode 0600) and its certificate (ca.pem). Who has the key can make
nodes: keep it at the OMA, or on a machine of its own. A folder that has an authority is refused with exit code 7.`,
	}
	c.Flags().StringVar(&dir, "dir", standardCertificates, "folder for the authority; it is made with mode 0700")
	c.Flags().StringVar(&life, "life", "3650d", "how long the authority lasts")
	c.RunE = func(*cobra.Command, []string) error {
		d, err := lifetime("--life", life)
		if err != nil {
			return err
		}
		if _, err := cert.CreateAuthority(dir, d); err != nil {
			return err
		}
		s.Say("%s has an authority now", OneLine(dir))
		return nil
	}
	return c
}

// lifetime reads a time such as 12h or 365d.
func lifetime(flag, text string) (time.Duration, error) {
	n, err := seconds(text)
	if err == nil && *n == 0 {
		err = errors.New("use a time such as 12h or 365d")
	}
	if err != nil {
		return 0, Usage("%s: %w", flag, err)
	}
	return time.Duration(*n) * time.Second, nil
}

func newCertNode(s Streams) *cobra.Command {
	var dir, out, role, life string
	c := &cobra.Command{
		Use: "node NAME", Short: "Make the certificate of a node", Args: cobra.ExactArgs(1),
		Example: "  sudo -u vmferry vmferry cert node vma-1 --role vma --out ./vma-1",
		Long: `Makes a key and a certificate for a node, and writes them beside the authority's certificate: ca.pem,
node.pem, node.key (mode 0600), and revoked.pem if certificates were revoked. Copy the folder to the node in a safe way,
or use vmferry node token and vmferry node join, where the key does not leave the node.

To renew a certificate, run it again: a running daemon takes the new one.`,
	}
	c.Flags().StringVar(&dir, "dir", standardCertificates, dirUsage)
	c.Flags().StringVar(&out, "out", "", "folder for the node's files (that of the authority)")
	c.Flags().StringVar(&role, "role", "", "vma or oma; role all is an OMA here")
	c.Flags().StringVar(&life, "life", "365d", "how long the certificate lasts")
	c.RunE = func(_ *cobra.Command, args []string) error {
		d, err := lifetime("--life", life)
		if err != nil {
			return err
		}
		if err := cert.CheckRole(role); err != nil {
			return Usage("--role: %w", err)
		}
		a, err := cert.OpenAuthority(dir)
		if err != nil {
			return err
		}
		if out == "" {
			out = dir
		}
		if err := a.Node(args[0], role, out, d); err != nil {
			return err
		}
		return showCertificate(s, out)
	}
	return c
}

func newCertRevoke(s Streams) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "revoke NAME", Short: "Revoke all certificates of a node", Args: cobra.ExactArgs(1),
		Example: "  sudo -u vmferry vmferry cert revoke vma-1",
		Long: `Adds all certificates that a node has had to the list revoked.pem. A daemon that uses this folder closes
the node's link within two seconds, and refuses it from then on. Copy the list to the other nodes: each looks only at
its own. A certificate that is made after this is good.`,
	}
	c.Flags().StringVar(&dir, "dir", standardCertificates, dirUsage)
	c.RunE = func(_ *cobra.Command, args []string) error {
		a, err := cert.OpenAuthority(dir)
		if err != nil {
			return err
		}
		n, err := a.Revoke(args[0])
		if err != nil {
			return err
		}
		s.Say("%s: %d certificates revoked", OneLine(args[0]), n)
		return nil
	}
	return c
}

func newCertShow(s Streams) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "show", Short: "Show the certificate of this node", Args: cobra.NoArgs,
		Long:    "Reads the files of a node as its daemon would, and says whose certificate it is and when it ends.",
		Example: "  sudo -u vmferry vmferry cert show",
	}
	c.Flags().StringVar(&dir, "dir", standardCertificates, "folder of the node's certificate")
	c.RunE = func(*cobra.Command, []string) error { return showCertificate(s, dir) }
	return c
}

func showCertificate(s Streams, dir string) error {
	n, err := cert.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	id := n.Self()
	_, err = fmt.Fprintf(s.Out, "%s: node %s, role %s, until %s, serial number %s\n", OneLine(dir), id.Name, id.Role,
		id.NotAfter.UTC().Format(time.RFC3339), id.Serial)
	return err
}

const nodeHelp = `Lets a new node fetch its certificate from the OMA: vmferry node token at the OMA, vmferry node join
at the node. The OMA needs link.listen, and the authority in its folder link.certificates.`

func newNodeCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "node", Short: "Join a node", Long: nodeHelp, Args: cobra.NoArgs,
		Example: "  sudo -u vmferry vmferry node token vma-1 --out vma-1.token\n" +
			"  sudo -u vmferry vmferry node join oma.example.org:8444 --token-file vma-1.token",
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newNodeToken(s), newNodeJoin(s))
	return c
}

func newNodeToken(s Streams) *cobra.Command {
	var dir, role, expires, life, file string
	c := &cobra.Command{
		Use: "token NAME", Short: "Make a token with which a node joins, once", Args: cobra.ExactArgs(1),
		Example: "  sudo -u vmferry vmferry node token vma-1 --out vma-1.token",
		Long: `Makes a token with which one node can fetch one certificate of this name, and writes it to standard
output or, with --out, into a new file that only this user can read. The authority keeps its digest. It can be used
once, until it expires.`,
	}
	c.Flags().StringVar(&dir, "dir", standardCertificates, dirUsage)
	c.Flags().StringVar(&role, "role", cert.VMA, "vma or oma")
	c.Flags().StringVar(&expires, "expires", "1h", "when the token ends")
	c.Flags().StringVar(&life, "life", "365d", "how long the certificate lasts")
	c.Flags().StringVar(&file, "out", "", "new file for the token; it gets mode 0600")
	c.RunE = func(_ *cobra.Command, args []string) error {
		until, err := lifetime("--expires", expires)
		if err != nil {
			return err
		}
		d, err := lifetime("--life", life)
		if err != nil {
			return err
		}
		a, err := cert.OpenAuthority(dir)
		if err != nil {
			return err
		}
		to := s.Out
		if file != "" {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return job.SystemError("write token", "Name a new file in a folder where you may write", err)
			}
			defer f.Close() //nolint:errcheck // what was written is checked below
			to = f
		}
		token, err := a.Token(args[0], role, until, d)
		if err != nil {
			return err
		}
		s.Say("node %s may join until %s, once", OneLine(args[0]), time.Now().Add(until).UTC().Format(time.RFC3339))
		_, err = fmt.Fprintln(to, token.Reveal())
		return err
	}
	return c
}

func newNodeJoin(s Streams) *cobra.Command {
	var dir, file string
	c := &cobra.Command{
		Use: "join HOST:PORT", Short: "Fetch the certificate of this node from the OMA", Args: cobra.ExactArgs(1),
		Example: "  sudo -u vmferry vmferry node join oma.example.org:8444 --token-file vma-1.token",
		Long: `Makes the key of this node, sends the token to the OMA at its address of the link, and writes the
certificate that comes back. The token says which authority to trust: a machine in between can't read it, nor answer in
the OMA's place. A token that was used, has expired or is not known is refused with exit code 4.`,
	}
	c.Flags().StringVar(&file, "token-file", "", "file with the token; - for standard input")
	c.Flags().StringVar(&dir, "dir", standardCertificates, "folder for the node's files; it is made with mode 0700")
	c.RunE = func(c *cobra.Command, args []string) error {
		token, err := joinToken(s, file)
		if err != nil {
			return err
		}
		if _, err := cert.Join(c.Context(), args[0], token, dir); err != nil {
			return err
		}
		return showCertificate(s, dir)
	}
	return c
}

func joinToken(s Streams, file string) (job.Secret, error) {
	const most = 4096
	if file == "" {
		return job.Secret{}, Usage("--token-file is missing")
	}
	in := s.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return job.Secret{}, job.SystemError("read token", "Name the file that vmferry node token has written", err)
		}
		defer f.Close() //nolint:errcheck // read only
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, most))
	if err != nil {
		return job.Secret{}, job.SystemError("read token", "Name the file that vmferry node token has written", err)
	}
	return job.NewSecret(strings.TrimSpace(string(text))), nil
}
