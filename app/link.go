package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link"
	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/report"
)

// Link joins this daemon with those of the other side. Without Listen and Peers there is none.
type Link struct {
	Listen string `koanf:"listen"` // host:port; "" to only dial
	// Peers are the nodes of the other side: NAME=HOST:PORT to dial one, NAME to wait for it. An OMA that listens and
	// has none takes all VMAs of its authority.
	Peers        []string `koanf:"peers"`
	Certificates string   `koanf:"certificates"` // absolute; "" for the folder link of the state directory
}

// linkFolder is the folder of certificates in the state directory.
const linkFolder = "link"

func (l Link) on() bool { return l.Listen != "" || len(l.Peers) > 0 }

func (cfg *Config) certificates() string {
	if cfg.Link.Certificates != "" {
		return cfg.Link.Certificates
	}
	return filepath.Join(cfg.StateDir, linkFolder)
}

func (l Link) peers() (list []link.Peer, err error) {
	const next = "Write each as in oma=oma.example.org:8444 to dial it, or as its name alone to wait for it"
	for _, text := range l.Peers {
		name, address, dial := strings.Cut(text, "=")
		if err := cert.CheckName(name); err != nil {
			return nil, wrong("link.peers", next, "%w", err)
		}
		if host, port, err := net.SplitHostPort(address); dial && (err != nil || host == "" || port == "") {
			return nil, wrong("link.peers", next, "%q is not host:port", address)
		}
		if slices.ContainsFunc(list, func(p link.Peer) bool { return strings.EqualFold(p.Name, name) }) {
			return nil, wrong("link.peers", "Name each node once", "%s is there twice", name)
		}
		if !dial && l.Listen == "" {
			return nil, wrong("link.peers", "Set link.listen, or write where the node is: "+name+"=HOST:PORT",
				"node %s is waited for, but this node does not listen", name)
		}
		list = append(list, link.Peer{Name: name, Address: address})
	}
	return list, nil
}

// checkLink refuses a link that can't be. That a certificate has expired is not looked at: the jobs go on without it.
func (cfg *Config) checkLink() error {
	l := cfg.Link
	if !l.on() {
		return nil
	}
	if _, port, err := net.SplitHostPort(l.Listen); l.Listen != "" && (err != nil || port == "") {
		return wrong("link.listen", "Write it as in 0.0.0.0:8444", "%q is not an address with a port", l.Listen)
	}
	if l.Listen != "" && (l.Listen == cfg.Listen || l.Listen == cfg.TLS.Listen) {
		return wrong("link.listen", "Choose an address of its own, as in 0.0.0.0:8444",
			"listen or tls.listen has the same address")
	}
	if _, err := l.peers(); err != nil {
		return err
	}
	if cfg.Role == VMA && len(l.Peers) == 0 {
		return wrong("link.peers", "Name the OMA, as in oma or oma=oma.example.org:8444",
			"a VMA takes commands over the link, so it must be said whose")
	}
	if !filepath.IsAbs(cfg.certificates()) {
		return wrong("link.certificates", "Write the whole path, starting with /", "%q is not an absolute path",
			l.Certificates)
	}
	node, err := cert.Open(cfg.certificates(), slog.New(slog.DiscardHandler))
	if err != nil {
		return wrong("link.certificates", job.NextOf(err), "%w", err)
	}
	if got, want := node.Self().Role, cfg.Role.ofCertificate(); got != want {
		return wrong("link.certificates", fmt.Sprintf("Make one with vmferry cert node %s --role %s", node.Self().Name,
			want), "the certificate is that of a node of role %s, this daemon has role %s", got, cfg.Role)
	}
	return nil
}

// ofCertificate is the role in the certificate: a daemon that is both sides in one takes VMAs as an OMA does.
func (r Role) ofCertificate() string {
	if r == VMA {
		return cert.VMA
	}
	return cert.OMA
}

// optionalLink has nil if this daemon is linked with no other.
type optionalLink struct{ *link.Remote }

// openLink prepares the link. The node starts it, before its first actor.
func openLink(end *ending, cfg Config, _ folders, version build, log *slog.Logger) (optionalLink, error) {
	if !cfg.Link.on() {
		return optionalLink{}, nil
	}
	peers, err := cfg.Link.peers()
	if err != nil {
		return optionalLink{}, err
	}
	dir := cfg.certificates()
	node, err := cert.Open(dir, log)
	if err != nil {
		return optionalLink{}, err
	}
	o := link.Options{
		Certificates: node, Listen: cfg.Link.Listen, Peers: peers, Program: string(version), Log: log,
	}
	if cert.HasAuthority(dir) && cfg.Link.Listen != "" {
		if o.Authority, err = cert.OpenAuthority(dir); err != nil {
			return optionalLink{}, err
		}
	}
	r := link.NewRemote(o)
	end.with(func(context.Context) error { return r.Close() })
	return optionalLink{r}, nil
}

// remote is what the actors start; nil for none.
func (l optionalLink) remote() actors.Remote {
	if l.Remote == nil {
		return nil
	}
	return l.Remote
}

// status is how each link is; nil without.
func (l optionalLink) status() []link.Status {
	if l.Remote == nil || l.Link == nil {
		return nil
	}
	return l.Peers()
}

// withLinks adds the links to the nodes that are watched, and the nodes that are only linked after them.
func withLinks(list []rest.Node, l optionalLink) []rest.Node {
	for _, s := range l.status() {
		i := slices.IndexFunc(list, func(n rest.Node) bool { return strings.EqualFold(n.Name, s.Name) })
		if i < 0 {
			i = len(list)
			list = append(list, linkedNode(s))
		}
		list[i].Link = linkOf(s)
	}
	return list
}

// linkedNode is a node of which only the link tells.
func linkedNode(s link.Status) rest.Node {
	n := rest.Node{
		Name: s.Name, Kind: report.OurNode, State: string(actors.NodeUnreachable), Since: s.Since.UTC(),
		Reason: s.Reason, Version: s.Program, Jobs: map[job.Status]int{},
	}
	if s.State == link.Up {
		n.State = string(actors.NodeConnected)
	}
	return n
}

func linkOf(s link.Status) *rest.Link {
	out := &rest.Link{
		State: string(s.State), Since: s.Since.UTC(), Reason: s.Reason, Role: s.Role, Address: s.Address,
		Dialled: s.Dialled, FrameVersion: int(s.Version), Waiting: s.Waiting, Refused: s.Refused,
		Events: []rest.LinkEvent{},
	}
	if s.RoundTrip > 0 {
		ms := float64(s.RoundTrip.Microseconds()) / 1000
		out.RoundTripMS = &ms
	}
	if !s.Expires.IsZero() {
		at := s.Expires.UTC()
		out.CertificateExpires = &at
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, rest.LinkEvent{At: e.At.UTC(), State: string(e.State), Reason: e.Reason})
	}
	return out
}
