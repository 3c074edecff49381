package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
	nbdsim "github.com/vmferry/vmferry/nbd/sim"
)

const simNBDHelp = `Runs an NBD server on this machine that serves one disk, a file or memory, until SIGTERM or Ctrl-C.
Standard output gets the URI, for vmferry copy, nbdinfo, nbdcopy and qemu-img.

With --without the server lacks capabilities that servers may lack. With --fault it misbehaves, to test a copy. A fault
is written as

  NAME[=VALUE][,op=COMMAND][,at=OFFSET+LENGTH][,after=N][,every=N][,count=N]

It affects requests of that COMMAND (read, write, zero, trim, flush, status) that touch those bytes: not the first N of
them (after), then each N-th (every), at most N times (count). Faults of connections count connections, and take no op
and no at.
`

const simNBDControlHelp = `
With --control PATH the server takes orders at that socket over HTTP. Each answer is the state with all counters:

  curl --unix-socket PATH http://sim/rehearsal/state
  curl --unix-socket PATH http://sim/rehearsal/fault -d '{"faults":["late=2s,op=read"]}'
  curl --unix-socket PATH http://sim/rehearsal/fault -X DELETE
  curl --unix-socket PATH http://sim/rehearsal/crash -X POST    loses what was not flushed, with --volatile
  curl --unix-socket PATH http://sim/rehearsal/drop -X POST     closes all connections

Every client of the server can read and write the disk: only your user may connect to sockets, and addresses must be
loopback.`

const simNBDExample = `  vmferry sim nbd --memory 1GiB        and in another terminal: vmferry copy root.raw URI
  vmferry sim nbd --file root.raw --read-only --listen /tmp/root.sock
  vmferry sim nbd --file root.raw --without extents,multi-conn
  vmferry sim nbd --file root.raw --fault error=EIO,op=read,at=1GiB+64K     a bad block
  vmferry sim nbd --file root.raw --fault stall,after=1000,count=1          a server that hangs once
  vmferry sim nbd --memory 1GiB --volatile --control /tmp/c.sock --fault flush-lie`

// simNBD is one run of the command.
type simNBD struct {
	cli.Streams
	out     *cli.Output
	options nbdsim.Options
	file    string
	memory  string
	cache   bool
	without []string
	faults  []string
	blocks  string
}

func newSimNBDCommand(s cli.Streams) *cobra.Command {
	n := &simNBD{Streams: s}
	c := &cobra.Command{
		Use: "nbd {--file IMAGE | --memory SIZE}", Short: "Run an NBD server that misbehaves on request",
		Long: simNBDHelp + faultTable() + simNBDControlHelp, Example: simNBDExample, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return n.run(c.Context()) },
	}
	n.out = cli.OutputFlag(c, cli.AsTable, cli.AsJSON, cli.AsYAML)
	f := c.Flags()
	f.StringVar(&n.file, "file", "", "raw image to serve; what clients write changes it")
	f.StringVar(&n.memory, "memory", "", "serve this many zeros; memory holds only what is written")
	f.BoolVar(&n.cache, "volatile", false, "with --memory: a crash loses what was not flushed")
	f.StringVar(&n.options.Listen, "listen", "127.0.0.1:0",
		"loopback address and port, or the path of a socket; port 0 is a free one")
	f.StringVar(&n.options.Control, "control", "", "path of a socket for orders over HTTP")
	f.StringVar(&n.options.Export, "export", "", "name of the export (default the empty name)")
	f.StringSliceVar(&n.without, "without", nil,
		"capabilities that it lacks: "+strings.Join(nbdsim.CapabilityNames(), ", "))
	f.StringArrayVar(&n.faults, "fault", nil, "a fault, see above; once for each")
	f.BoolVar(&n.options.ReadOnly, "read-only", false, "refuse all writes")
	f.StringVar(&n.blocks, "block-size", "", "minimum/preferred/maximum bytes of a request, as in 512/4096/1048576")
	f.IntVar(&n.options.Connections, "connections", 0, "most connections at the same time (default no limit)")
	f.IntVar(&n.options.Requests, "requests", 0, "most requests in work on each connection (default 16)")
	c.MarkFlagsMutuallyExclusive("file", "memory")
	c.MarkFlagsOneRequired("file", "memory")
	c.MarkFlagsMutuallyExclusive("file", "volatile")
	return c
}

// faultTable lists all faults for the help.
func faultTable() string {
	var b strings.Builder
	b.WriteString("\n")
	for _, k := range nbdsim.FaultKinds() {
		name := string(k.Kind)
		if k.Value != "" {
			name += "=" + k.Value
		}
		fmt.Fprintf(&b, "  %-34s %s\n", name, k.Text)
	}
	return b.String()
}

func (n *simNBD) run(ctx context.Context) (err error) {
	if err := n.read(); err != nil {
		return err
	}
	closeDisk, err := n.disk()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDisk()) }()
	server, err := nbdsim.Start(ctx, n.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	ready := simNBDReady{
		URI: server.URI(), Control: n.options.Control, PID: os.Getpid(),
		Size: n.options.Backend.Size(), Faults: server.State().Faults,
	}
	if n.out.Structured() {
		err = n.out.Data(n.Out, ready)
	} else {
		err = ready.write(n.Out)
	}
	if err != nil {
		return err
	}
	n.Say("The server is ready and runs until Ctrl-C.")
	<-ctx.Done()
	n.sayCounters(server.State())
	return nil
}

// read turns the flags into options.
func (n *simNBD) read() (err error) {
	if n.options.Without, err = nbdsim.ParseCapabilities(strings.Join(n.without, ",")); err != nil {
		return err
	}
	for _, text := range n.faults {
		f, err := nbdsim.ParseFault(text)
		if err != nil {
			return err
		}
		n.options.Faults = append(n.options.Faults, f)
	}
	for _, place := range []*string{&n.options.Listen, &n.options.Control} {
		if !strings.Contains(*place, "/") {
			continue // an address; the server refuses other texts
		}
		if *place, err = filepath.Abs(*place); err != nil {
			return err
		}
	}
	n.options.BlockSizes, err = parseBlockSizes(n.blocks)
	return err
}

// parseBlockSizes reads three sizes with slashes between them. "" is all zero: no limits.
func parseBlockSizes(text string) (b nbdsim.BlockSizes, err error) {
	if text == "" {
		return b, nil
	}
	sizes := []*uint32{&b.Min, &b.Preferred, &b.Max}
	parts := strings.Split(text, "/")
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 32)
		if err != nil || len(parts) != len(sizes) || v == 0 {
			const next = "Write three sizes as in 512/4096/1048576. For wrong block sizes use --fault block-size"
			return b, job.Errorf("read block sizes", job.Invalid, next, "%q is not three sizes in bytes", text)
		}
		*sizes[i] = uint32(v)
	}
	return b, nil
}

// disk opens or makes the disk.
func (n *simNBD) disk() (closeDisk func() error, err error) {
	if n.file != "" {
		f, err := nbdsim.OpenFile(n.file, n.options.ReadOnly)
		if err != nil {
			return nil, err
		}
		n.options.Backend = f
		return f.Close, nil
	}
	size, err := job.ParseSize(n.memory)
	if err != nil {
		return nil, err
	}
	m := nbdsim.NewMemory(size)
	if n.cache {
		m = nbdsim.NewVolatileMemory(size)
	}
	n.options.Backend = m
	return func() error { return nil }, nil
}

// sayCounters writes what the server has counted.
func (n *simNBD) sayCounters(s nbdsim.State) {
	var all int64
	for _, count := range s.Commands {
		all += count
	}
	n.Say("It took %d connections and %d requests; %s were read, %s written, %s zeroed.", s.Accepted, all,
		job.FormatSize(s.Read), job.FormatSize(s.Written), job.FormatSize(s.Zeroed))
	for _, v := range s.Violations {
		n.Say("A client broke the protocol: %s", v)
	}
}

// simNBDReady is what the command writes when the server is ready.
type simNBDReady struct {
	URI     string         `json:"uri"`
	Control string         `json:"control,omitempty"`
	PID     int            `json:"pid"`
	Size    int64          `json:"bytes_size"`
	Faults  []nbdsim.Fault `json:"faults"`
}

// write writes the URI alone, for scripts.
func (r simNBDReady) write(w io.Writer) error {
	_, err := fmt.Fprintln(w, r.URI)
	return err
}
