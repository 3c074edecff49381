package app

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/fx"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Node is a VMA whose jobs an OMA shows.
type Node struct {
	Name string `koanf:"name"` // of its rows; 1 to 64 letters, digits, - and _
	URL  string `koanf:"url"`  // as rest.NewClient takes it
	Kind string `koanf:"kind"` // vmferry or legacy; "" for vmferry
	// TokenFile has a token of the node, and nothing else; absolute, not readable by every user. "" for none.
	TokenFile string   `koanf:"token_file"`
	CAFile    string   `koanf:"ca_file"` // of the authority of its certificate; needs https
	Jobs      []job.ID `koanf:"jobs"`    // of a legacy node: watched from the start on
}

// omaParts is what an OMA has beside the parts of every daemon: the nodes that it watches.
func omaParts() fx.Option { return fx.Provide(openNodes) }

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// checkSides refuses what a side alone can't have.
func (cfg *Config) checkSides() error {
	if cfg.Role == OMA && cfg.VCenter != (VCenter{}) {
		return wrong("vcenter", "Leave out the section vcenter, and configure the vCenter at the VMA; or use role all",
			"an OMA has no vCenter: its nodes have")
	}
	if cfg.Role == VMA && len(cfg.Nodes) > 0 {
		return wrong("nodes", "Use role oma or all, or leave out nodes", "a VMA watches no nodes")
	}
	return nil
}

// checkNodes refuses nodes that can't be watched.
func (cfg *Config) checkNodes() error {
	for i := range cfg.Nodes {
		if err := cfg.checkNode(i); err != nil {
			return err
		}
	}
	return nil
}

// isOwn says whether a node's address is that of this daemon, which would ask itself without end.
func (cfg *Config) isOwn(text string, u *url.URL) bool {
	if u.Scheme == "unix" {
		return text == cfg.Listen
	}
	loopback := func(host string) string {
		if strings.EqualFold(host, "localhost") {
			return "127.0.0.1"
		}
		return host
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	return err == nil && port == u.Port() && loopback(host) == loopback(u.Hostname())
}

func (cfg *Config) checkNode(i int) error {
	n := &cfg.Nodes[i]
	if !nodeName.MatchString(n.Name) {
		return wrong(fmt.Sprintf("nodes[%d].name", i), "Use 1 to 64 letters, digits, - and _, as in vma-1",
			"%q is not a name for a node", n.Name)
	}
	if slices.ContainsFunc(cfg.Nodes[:i], func(o Node) bool { return strings.EqualFold(o.Name, n.Name) }) {
		return wrong(fmt.Sprintf("nodes[%d].name", i), "Give each node a name of its own",
			"%q is the name of two nodes", n.Name)
	}
	key := "nodes (" + n.Name + ")"
	if n.Kind == "" {
		n.Kind = string(report.OurNode)
	}
	if !slices.Contains([]string{string(report.OurNode), string(report.LegacyNode)}, n.Kind) {
		return wrong(key, "Use vmferry or legacy", "%q is not a kind of node", n.Kind)
	}
	if err := cfg.checkNodeURL(key, n); err != nil {
		return err
	}
	if len(n.Jobs) > 0 && n.Kind == string(report.OurNode) {
		return wrong(key, "Leave out jobs", "a node of kind vmferry tells of its jobs by itself")
	}
	for _, id := range n.Jobs {
		if _, err := job.ParseID(string(id)); err != nil {
			return wrong(key, job.NextOf(err), "jobs: %w", err)
		}
	}
	if n.TokenFile != "" {
		return checkSecretFile(key+" token_file", n.TokenFile)
	}
	return nil
}

// checkNodeURL checks the address of a node, and what is sent there.
func (cfg *Config) checkNodeURL(key string, n *Node) error {
	u, err := url.Parse(n.URL)
	tcp := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil &&
		u.RawQuery == "" && strings.Trim(u.Path, "/") == ""
	if !tcp && (!strings.HasPrefix(n.URL, "unix:/") || len(n.URL) <= len("unix:/")) {
		return wrong(key, "Write url as in http://127.0.0.1:9081, https://vma-1.example.org:8443 or unix:/path",
			"this is not the address of a node")
	}
	if !tcp {
		u = &url.URL{Scheme: "unix"} // a path need not be one of a URL
	}
	if cfg.isOwn(n.URL, u) {
		return wrong(key, "Write url with the address of the VMA, or leave this node out",
			"this is listen, the address of this daemon itself")
	}
	if n.CAFile != "" && u.Scheme != "https" {
		return wrong(key, "Write url with https://, or leave out ca_file", "ca_file is of no use without TLS")
	}
	if n.TokenFile != "" && u.Scheme == "http" && !apihttp.Local(net.JoinHostPort(u.Hostname(), "80")) {
		return wrong(key, "Write url with https://, or leave out token_file",
			"a token would cross the network in clear")
	}
	return nil
}
