package app

import (
	"context"
	"log/slog"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
)

// vcenter is the configured vCenter. It connects at the first use, so that the daemon runs while the vCenter is down or
// not configured. It does not retry: the jobs that call it do. What its calls find, and probes after start, is how the
// vCenter is now. Its methods may be called from many goroutines.
type vcenter struct {
	cfg   vsphere.Config
	log   *slog.Logger
	watch *vcenterWatch
	lock  chan struct{}   // holds one token; the goroutine that has it may connect
	live  *vsphere.Client // guarded by lock; nil before the first use

	stop    context.CancelFunc // ends the probes; nil without
	stopped chan struct{}
}

func newVCenter(cfg Config, log *slog.Logger) *vcenter {
	v := &vcenter{log: log, lock: make(chan struct{}, 1), cfg: vsphere.Config{
		URL: cfg.VCenter.URL, User: cfg.VCenter.User, PasswordFile: cfg.VCenter.PasswordFile,
		Thumbprint: cfg.VCenter.Thumbprint, CAFile: cfg.VCenter.CAFile, Log: log, Refusals: &vsphere.Refusals{},
		Source: vsphere.Transport{
			Kind: cfg.Source.Transport, VDDKLibDir: cfg.Source.VDDKLibDir, VDDKPlugin: cfg.Source.VDDKPlugin,
			VDDKConfig: cfg.Source.VDDKConfig, NBDURI: cfg.Source.NBDURI,
		},
	}}
	v.lock <- struct{}{}
	state := rest.VCenterUnknown
	if v.configured() != nil {
		state = rest.VCenterNotConfigured
	}
	v.watch = newVCenterWatch(state, log)
	return v
}

// check refuses a configuration that cannot work, before anything is sent.
func (v *vcenter) check() error {
	if v.cfg.URL == "" {
		return nil
	}
	return v.cfg.Check()
}

// start begins to probe, until Close.
func (v *vcenter) start(ctx context.Context) {
	if v.configured() != nil {
		return
	}
	ctx, v.stop = context.WithCancel(context.WithoutCancel(ctx))
	v.stopped = make(chan struct{})
	go func() {
		defer close(v.stopped)
		v.watch.run(ctx, v.probe)
	}()
}

// state is how the vCenter is now.
func (v *vcenter) state() rest.VCenter {
	now := v.watch.state()
	if err := v.configured(); err != nil {
		now.Message, now.Next = err.Error(), job.NextOf(err)
	}
	return now
}

// configured is nil, or the error that names the keys to set.
func (v *vcenter) configured() error {
	if v.cfg.URL == "" {
		return job.Errorf("find the vCenter", job.Invalid,
			"Set vcenter.url, vcenter.user and vcenter.password_file in the configuration, then start the daemon again",
			"no vCenter is configured")
	}
	return nil
}

// client returns the connection and connects if there is none. One goroutine connects at a time; the others wait.
func (v *vcenter) client(ctx context.Context) (*vsphere.Client, error) {
	if err := v.configured(); err != nil {
		return nil, err
	}
	select {
	case <-v.lock:
	case <-ctx.Done():
		return nil, job.Errorf("connect to vCenter", job.KindOf(context.Cause(ctx)), "", "%w", context.Cause(ctx))
	}
	defer func() { v.lock <- struct{}{} }()
	if v.live != nil {
		return v.live, nil
	}
	c, err := vsphere.Connect(ctx, v.cfg)
	if err != nil {
		return nil, err
	}
	v.log.Info("connected to the vCenter", "vcenter", c.Name(), "user", v.cfg.User)
	v.live = c
	return c, nil
}

// Close ends the probes, and logs out if there is a connection.
func (v *vcenter) Close(ctx context.Context) error {
	if v.stop != nil {
		v.stop()
		<-v.stopped
	}
	<-v.lock
	defer func() { v.lock <- struct{}{} }()
	if v.live == nil {
		return nil
	}
	c := v.live
	v.live = nil
	return c.Close(ctx)
}

// with runs f on the connected client.
func with[R any](ctx context.Context, v *vcenter, f func(*vsphere.Client) (R, error)) (R, error) {
	done := v.watch.begin()
	c, err := v.client(ctx)
	if err != nil {
		done(err)
		var none R
		return none, err
	}
	r, err := f(c)
	done(err)
	return r, err
}

// Inspect and the methods below call the methods of vsphere.Client with the same names.
func (v *vcenter) Inspect(ctx context.Context, vm string) (job.VM, error) {
	return with(ctx, v, func(c *vsphere.Client) (job.VM, error) { return c.Inspect(ctx, vm) })
}

func (v *vcenter) EnsureCBT(ctx context.Context, vm job.VM) (bool, error) {
	return with(ctx, v, func(c *vsphere.Client) (bool, error) { return c.EnsureCBT(ctx, vm) })
}

func (v *vcenter) Snapshot(ctx context.Context, vm job.VM, want job.SnapshotRef, quiesce bool) (job.VMSnapshot, error) {
	return with(ctx, v, func(c *vsphere.Client) (job.VMSnapshot, error) { return c.Snapshot(ctx, vm, want, quiesce) })
}

func (v *vcenter) CheckSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error {
	_, err := with(ctx, v, func(c *vsphere.Client) (struct{}, error) {
		return struct{}{}, c.CheckSnapshot(ctx, vm, which)
	})
	return err
}

func (v *vcenter) ChangedAreas(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID,
	since string,
) (job.Extents, error) {
	return with(ctx, v, func(c *vsphere.Client) (job.Extents, error) {
		return c.ChangedAreas(ctx, vm, snap, disk, since)
	})
}

func (v *vcenter) Export(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID) (job.Export, error) {
	return with(ctx, v, func(c *vsphere.Client) (job.Export, error) { return c.Export(ctx, vm, snap, disk) })
}

func (v *vcenter) OurSnapshots(ctx context.Context) ([]job.FoundSnapshot, error) {
	if v.cfg.URL == "" {
		return nil, nil
	}
	return with(ctx, v, func(c *vsphere.Client) ([]job.FoundSnapshot, error) { return c.OurSnapshots(ctx) })
}

func (v *vcenter) RemoveSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error {
	_, err := with(ctx, v, func(c *vsphere.Client) (struct{}, error) {
		return struct{}{}, c.RemoveSnapshot(ctx, vm, which)
	})
	return err
}

func (v *vcenter) SessionCookie(ctx context.Context) (job.Secret, error) {
	return with(ctx, v, func(c *vsphere.Client) (job.Secret, error) { return c.SessionCookie(ctx) })
}

func (v *vcenter) Privileges(ctx context.Context, vm job.VM) ([]string, error) {
	return with(ctx, v, func(c *vsphere.Client) ([]string, error) { return c.Privileges(ctx, vm) })
}

// VMs lists all VMs of the vCenter.
func (v *vcenter) VMs(ctx context.Context) (list []job.ListedVM, missing []string, err error) {
	list, err = with(ctx, v, func(c *vsphere.Client) ([]job.ListedVM, error) { return c.VMs(ctx) })
	return list, nil, err
}
