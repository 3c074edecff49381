//go:build !slim

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

const simVCenterHelp = `Starts a vCenter on this machine with one VM whose disks are the images that you give, and runs until SIGTERM or
Ctrl-C. It is simulated: the vSphere API, snapshots, changed block tracking and reading over HTTPS are as a vCenter has
them, and the bytes are yours. Jobs, drills and scripts can be rehearsed against it.

Images are raw; qemu-img convert -O raw makes one. They are copied, holes stay holes; with --in-place they are used
themselves, and what the guest writes changes them. Standard output gets what a job needs; under /rehearsal/, with the
same user and password, you write as the guest would, order faults, and read a disk as it is or as a snapshot froze it:

  GET    /rehearsal/state
  GET    /rehearsal/image?vm=NAME&disk=disk-2000[&snapshot=REF]
  POST   /rehearsal/write      {"vm","disk","offset","length","seed"} or {"vm","disk","offset","data_base64"}
  POST   /rehearsal/reset-cbt  {"vm"}
  POST   /rehearsal/fault      {"kind","op","fault","status","delay","count"}; a wrong kind is answered with all of them
  DELETE /rehearsal/fault`

const simVCenterExample = `  vmferry sim vcenter --vm web --disk root.raw --disk data.raw
  vmferry sim vcenter --vm web --disk root.raw --task-time 3s --max-areas 5 -o json`

const simUser = "administrator@vsphere.local"

func newSimCommand(s streams) *cobra.Command {
	c := &cobra.Command{
		Use: "sim", Short: simShort, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSimVCenterCommand(s), newSimNBDCommand(s))
	return c
}

// simVCenter is one call of the command.
type simVCenter struct {
	streams
	out          *output
	options      sim.Options
	vm           sim.VM
	passwordFile string
}

func newSimVCenterCommand(s streams) *cobra.Command {
	v := &simVCenter{streams: s}
	c := &cobra.Command{
		Use: "vcenter --vm NAME --disk FILE...", Short: "Run a vCenter with one VM on this machine",
		Long: simVCenterHelp, Example: simVCenterExample, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return v.run(c.Context()) },
	}
	v.out = outputFlag(c, asTable, asJSON, asYAML)
	f := c.Flags()
	f.StringVar(&v.vm.Name, "vm", "", "name of the VM (required)")
	f.StringArrayVar(&v.vm.Disks, "disk", nil, "raw image of a disk; once for each (required)")
	f.BoolVar(&v.vm.PoweredOff, "powered-off", false, "the VM does not run")
	f.StringArrayVar(&v.vm.Snapshots, "snapshot", nil, "name of a snapshot that somebody else made; once for each")
	f.StringVar(&v.options.Listen, "listen", "127.0.0.1:0", "address and port; port 0 is a free one")
	f.StringVar(&v.options.Dir, "dir", "", "where the disks' files are kept while it runs (default a temporary directory)")
	f.BoolVar(&v.options.InPlace, "in-place", false, "use the images themselves instead of copies")
	f.StringVar(&v.options.User, "user", simUser, "who may log in")
	f.StringVar(&v.passwordFile, "password-file", "", "file with the password (default: a new password in a new file)")
	f.IntVar(&v.options.MaxAreas, "max-areas", 2000, "most changed areas in one answer")
	f.DurationVar(&v.options.TaskTime, "task-time", 0, "how long each task takes at least")
	f.DurationVar(&v.options.SessionTimeout, "session-timeout", 0, "when an idle session ends (default never)")
	f.BoolVar(&v.options.CBT, "cbt", false, "changed block tracking is on already")
	for _, name := range []string{"vm", "disk"} {
		_ = c.MarkFlagRequired(name) // fails only for a flag that is not there
	}
	return c
}

func (v *simVCenter) run(ctx context.Context) (err error) {
	clean, err := v.prepare()
	defer func() { err = errors.Join(err, clean()) }()
	if err != nil {
		return err
	}
	v.options.VMs = []sim.VM{v.vm}
	began := time.Now()
	vcenter, err := sim.Start(ctx, v.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vcenter.Close()) }()
	ready := v.describe(vcenter)
	if v.out.structured() {
		err = v.out.data(v.streams.out, ready)
	} else {
		err = ready.tell(v.streams.out)
	}
	if err != nil {
		return err
	}
	v.say("The vCenter is ready after %s and runs until Ctrl-C.", time.Since(began).Round(time.Millisecond))
	<-ctx.Done()
	return nil
}

// prepare finds or makes the directory and the password. What it returns removes what it made.
func (v *simVCenter) prepare() (clean func() error, err error) {
	clean = func() error { return nil }
	if v.options.Dir == "" {
		dir, err := os.MkdirTemp("", "vmferry-sim-")
		if err != nil {
			return clean, err
		}
		v.options.Dir = dir
		clean = func() error { return os.RemoveAll(dir) }
	}
	if v.passwordFile == "" {
		var text [12]byte
		_, _ = rand.Read(text[:]) // never fails
		v.passwordFile = filepath.Join(v.options.Dir, "password")
		if err := os.WriteFile(v.passwordFile, []byte(hex.EncodeToString(text[:])+"\n"), 0o600); err != nil {
			return clean, err
		}
		file, before := v.passwordFile, clean
		clean = func() error { return errors.Join(os.Remove(file), before()) }
	}
	if v.passwordFile, err = filepath.Abs(v.passwordFile); err != nil {
		return clean, err
	}
	password, err := os.ReadFile(v.passwordFile)
	if err != nil {
		return clean, &job.Error{Op: "read the password", Kind: job.Invalid, Next: "Give a file that holds only the password.", Err: err}
	}
	v.options.Password = job.NewSecret(strings.TrimRight(string(password), "\r\n"))
	return clean, nil
}

// simReady is what the command says of the vCenter when it is ready.
type simReady struct {
	URL            string    `json:"url"`
	User           string    `json:"user"`
	PasswordFile   string    `json:"password_file"`
	Thumbprint     string    `json:"thumbprint"`      // SHA-256, for vcenter.thumbprint
	ThumbprintSHA1 string    `json:"thumbprint_sha1"` // as VMware's disk library wants it
	PID            int       `json:"pid"`
	Dir            string    `json:"dir"`
	VM             string    `json:"vm"`
	VMPath         string    `json:"vm_path"`
	Ref            string    `json:"ref"`
	Disks          []simDisk `json:"disks"`
	Config         string    `json:"config"` // sections for vmferry.yaml
	WriteExample   string    `json:"write_example"`
}

type simDisk struct {
	ID       job.DiskID `json:"id"`
	Image    string     `json:"image"`
	Capacity int64      `json:"bytes_capacity"`
}

func (v *simVCenter) describe(vcenter *sim.VCenter) simReady {
	state := vcenter.State()
	vm := state.VMs[0]
	r := simReady{
		URL: vcenter.URL(), User: vcenter.User(), PasswordFile: v.passwordFile, Thumbprint: vcenter.Thumbprint(), ThumbprintSHA1: vcenter.ThumbprintSHA1(),
		PID: os.Getpid(), Dir: vcenter.Dir(), VM: vm.Name, VMPath: vm.Path, Ref: vm.Ref,
	}
	for _, d := range vm.Disks {
		r.Disks = append(r.Disks, simDisk{d.ID, d.Image, d.Capacity})
	}
	r.Config = fmt.Sprintf("vcenter:\n  url: %q\n  user: %q\n  password_file: %q\n  thumbprint: %q\nsource:\n  transport: curl\n",
		r.URL, r.User, r.PasswordFile, r.Thumbprint)
	r.WriteExample = fmt.Sprintf(`curl -sku "%s:$(cat %s)" %s/rehearsal/write -d '{"vm":"%s","disk":"%s","offset":0,"length":65536,"seed":1}'`,
		r.User, r.PasswordFile, strings.TrimSuffix(r.URL, "/sdk"), r.VM, r.Disks[0].ID)
	return r
}

// tell writes it for people.
func (r simReady) tell(w io.Writer) error {
	var b strings.Builder
	rows := [][2]string{
		{"url", r.URL},
		{"user", r.User},
		{"password file", r.PasswordFile},
		{"thumbprint", r.Thumbprint},
		{"vm", r.VMPath + " (" + r.Ref + ")"},
	}
	for _, d := range r.Disks {
		rows = append(rows, [2]string{string(d.ID), d.Image + " (" + job.FormatSize(d.Capacity) + ")"})
	}
	for _, row := range rows {
		fmt.Fprintf(&b, "%-14s %s\n", row[0], row[1])
	}
	fmt.Fprintf(&b, "\nFor vmferry.yaml:\n%s\nTo write as the guest would:\n  %s\n", r.Config, r.WriteExample)
	_, err := io.WriteString(w, b.String())
	return err
}
