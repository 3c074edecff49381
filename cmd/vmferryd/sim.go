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
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

const simVCenterHelp = `Runs a rehearsal vCenter on this machine, until SIGTERM or Ctrl-C. The disks of its VMs are
your images. The vSphere API, snapshots, changed block tracking and reading over HTTPS work as those of a vCenter.
Flags after a --vm belong to that VM.

Images are raw; qemu-img convert -O raw makes one. They are copied, holes stay holes. With --in-place the images
themselves are used, and writes of the guest change them. Standard output gets what a job needs. Under /rehearsal/,
with the same user and password, you can write as the guest, order faults, and read a disk as it is or as a snapshot
froze it:

  GET    /rehearsal/state
  GET    /rehearsal/image?vm=NAME&disk=disk-2000[&snapshot=REF]
  POST   /rehearsal/write      {"vm","disk","offset","length","seed"} or {"vm","disk","offset","data_base64"}
  POST   /rehearsal/reset-cbt  {"vm"}
  POST   /rehearsal/add-disk   {"vm","image"} or {"vm","capacity","seed"}
  POST   /rehearsal/remove-disk, grow-disk, replace-disk  {"vm","disk"}, with "capacity", or as add-disk
  POST   /rehearsal/snapshot   {"vm","name","description"}: as another program takes it
  POST   /rehearsal/revert     {"vm"}: to its newest snapshot
  POST   /rehearsal/fault      {"kind","op","fault","status","delay","count"}; a wrong kind is answered with all kinds
  DELETE /rehearsal/fault`

const simVCenterExample = `  vmferry sim vcenter --vm web --disk root.raw --disk data.raw
  vmferry sim vcenter --vm web --disk web.raw --vm db --disk db.raw --disk logs.raw
  vmferry sim vcenter --vm web --disk root.raw --task-time 3s --max-areas 5 -o json`

const simUser = "administrator@vsphere.local"

func newSimCommand(s cli.Streams) *cobra.Command {
	c := cli.DaemonCommands()["sim"]
	c.Args, c.RunE = cobra.NoArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(newSimVCenterCommand(s), newSimNBDCommand(s))
	return c
}

// simVCenter is one run of the command.
type simVCenter struct {
	cli.Streams
	out          *cli.Output
	options      sim.Options
	vms          simVMs
	passwordFile string
}

// simVMs are the VMs of the flags; at least one.
type simVMs []sim.VM

// named begins the next VM. Flags before the first --vm belong to the first VM.
func (v *simVMs) named(name string) error {
	if name == "" {
		return errors.New("a VM needs a name")
	}
	if v.last().Name != "" {
		*v = append(*v, sim.VM{})
	}
	v.last().Name = name
	return nil
}

func (v *simVMs) last() *sim.VM { return &(*v)[len(*v)-1] }

func newSimVCenterCommand(s cli.Streams) *cobra.Command {
	v := &simVCenter{Streams: s, vms: make(simVMs, 1)}
	c := &cobra.Command{
		Use: "vcenter --vm NAME --disk FILE...", Short: "Run a vCenter with VMs on this machine",
		Long: simVCenterHelp, Example: simVCenterExample, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return v.run(c.Context()) },
	}
	v.out = cli.OutputFlag(c, cli.AsTable, cli.AsJSON, cli.AsYAML)
	f := c.Flags()
	f.Func("vm", "`name` of a VM; once for each (required)", v.vms.named)
	f.Func("disk", "raw image `file` of a disk of the VM; once for each (required)", func(file string) error {
		v.vms.last().Disks = append(v.vms.last().Disks, file)
		return nil
	})
	f.BoolFunc("powered-off", "the VM is powered off", func(text string) (err error) {
		v.vms.last().PoweredOff, err = strconv.ParseBool(text)
		return err
	})
	f.Func("snapshot", "`name` of a snapshot of the VM that vmferry did not make; once for each",
		func(name string) error {
			v.vms.last().Snapshots = append(v.vms.last().Snapshots, name)
			return nil
		})
	f.StringVar(&v.options.Listen, "listen", "127.0.0.1:0", "address and port; port 0 is a free one")
	f.StringVar(&v.options.Dir, "dir", "",
		"folder of the disks' files while it runs (default a temporary folder)")
	f.BoolVar(&v.options.InPlace, "in-place", false, "use the images themselves, not copies")
	f.StringVar(&v.options.User, "user", simUser, "user who may log in")
	f.StringVar(&v.passwordFile, "password-file", "", "file with the password (default: a new password in a new file)")
	f.IntVar(&v.options.MaxAreas, "max-areas", 2000, "most changed areas in one answer")
	f.DurationVar(&v.options.TaskTime, "task-time", 0, "least time that a task takes")
	f.DurationVar(&v.options.SessionTimeout, "session-timeout", 0,
		"time after which an idle session ends (default never)")
	f.BoolVar(&v.options.CBT, "cbt", false, "changed block tracking is on from the start")
	for _, name := range []string{"vm", "disk"} {
		_ = c.MarkFlagRequired(name) // fails only for a flag that does not exist
	}
	return c
}

func (v *simVCenter) run(ctx context.Context) (err error) {
	for _, vm := range v.vms {
		if len(vm.Disks) == 0 {
			return cli.Usage("VM %s has no disk: name its images with --disk after its --vm", vm.Name)
		}
	}
	clean, err := v.prepare()
	defer func() { err = errors.Join(err, clean()) }()
	if err != nil {
		return err
	}
	v.options.VMs = v.vms
	began := time.Now()
	vcenter, err := sim.Start(ctx, v.options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vcenter.Close()) }()
	ready := v.describe(vcenter)
	if v.out.Structured() {
		err = v.out.Data(v.Out, ready)
	} else {
		err = ready.write(v.Out)
	}
	if err != nil {
		return err
	}
	v.Say("The vCenter is ready after %s and runs until Ctrl-C.", time.Since(began).Round(time.Millisecond))
	<-ctx.Done()
	return nil
}

// prepare finds or makes the folder and the password. clean removes what it made; call it in any case.
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
		return clean, &job.Error{
			Op: "read the password", Kind: job.Invalid,
			Next: "Name a file that holds only the password", Err: err,
		}
	}
	v.options.Password = job.NewSecret(strings.TrimRight(string(password), "\r\n"))
	return clean, nil
}

// simReady is what the command writes when the vCenter is ready.
type simReady struct {
	URL            string  `json:"url"`
	User           string  `json:"user"`
	PasswordFile   string  `json:"password_file"`
	Thumbprint     string  `json:"thumbprint"`      // SHA-256, for vcenter.thumbprint
	ThumbprintSHA1 string  `json:"thumbprint_sha1"` // for VMware's disk library
	PID            int     `json:"pid"`
	Dir            string  `json:"dir"`
	simVM                  // the first VM
	VMs            []simVM `json:"vms"`
	Config         string  `json:"config"` // sections for vmferry.yaml
	WriteExample   string  `json:"write_example"`
}

type simVM struct {
	VM     string    `json:"vm"`
	VMPath string    `json:"vm_path"`
	Ref    string    `json:"ref"`
	Disks  []simDisk `json:"disks"`
}

type simDisk struct {
	ID       job.DiskID `json:"id"`
	Image    string     `json:"image"`
	Capacity int64      `json:"bytes_capacity"`
}

func (v *simVCenter) describe(vcenter *sim.VCenter) simReady {
	r := simReady{
		URL: vcenter.URL(), User: vcenter.User(), PasswordFile: v.passwordFile, Thumbprint: vcenter.Thumbprint(),
		ThumbprintSHA1: vcenter.ThumbprintSHA1(),
		PID:            os.Getpid(), Dir: vcenter.Dir(),
	}
	for _, vm := range vcenter.State().VMs {
		one := simVM{VM: vm.Name, VMPath: vm.Path, Ref: vm.Ref}
		for _, d := range vm.Disks {
			one.Disks = append(one.Disks, simDisk{d.ID, d.Image, d.Capacity})
		}
		r.VMs = append(r.VMs, one)
	}
	r.simVM = r.VMs[0]
	r.Config = fmt.Sprintf(
		"vcenter:\n  url: %q\n  user: %q\n  password_file: %q\n  thumbprint: %q\nsource:\n  transport: curl\n",
		r.URL, r.User, r.PasswordFile, r.Thumbprint)
	r.WriteExample = fmt.Sprintf(
		`curl -sku "%s:$(cat %s)" %s/rehearsal/write -d '{"vm":"%s","disk":"%s","offset":0,"length":65536,"seed":1}'`,
		r.User, r.PasswordFile, strings.TrimSuffix(r.URL, "/sdk"), r.VM, r.Disks[0].ID)
	return r
}

// write writes it in words.
func (r simReady) write(w io.Writer) error {
	var b strings.Builder
	rows := [][2]string{
		{"url", r.URL},
		{"user", r.User},
		{"password file", r.PasswordFile},
		{"thumbprint", r.Thumbprint},
	}
	for _, vm := range r.VMs {
		rows = append(rows, [2]string{"vm", vm.VMPath + " (" + vm.Ref + ")"})
		for _, d := range vm.Disks {
			rows = append(rows, [2]string{string(d.ID), d.Image + " (" + job.FormatSize(d.Capacity) + ")"})
		}
	}
	for _, row := range rows {
		fmt.Fprintf(&b, "%-14s %s\n", row[0], row[1])
	}
	fmt.Fprintf(&b, "\nFor vmferry.yaml:\n%s\nTo write as the guest would:\n  %s\n", r.Config, r.WriteExample)
	_, err := io.WriteString(w, b.String())
	return err
}
