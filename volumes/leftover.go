package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// A server of an export can outlive the process that started it: one that was killed can't end its children, and the
// death signal reaches none whose storage does not answer. What is left is found by who it is, never by its name:
//
//   - the process of that number that was started at that time in this boot, as the lease says; or
//   - a process that has this node's id and an export in its environment, as this program gave it at its start, and
//     that has open what the lease, or the target of the volume, names. Such a one was started and not stored, or is
//     younger than the journal, which was restored.
//
// The lock of the state directory says that no other process of this node runs.

// leftover is a process that serves an export of this node.
type leftover struct {
	pid    int
	start  uint64
	volume string // as its environment says
	epoch  int64
	file   string // what it has open; "" if that can't be told
}

// Recover ends what an earlier process of this node has left: leases that are not free, and exports that still stand.
// It is called once, before any target is opened. It returns when all is over, or after 5 s: then the leases of the
// volumes whose storage does not answer say so, and they end later. Errors are those of the ledger.
func (v *Volumes) Recover(ctx context.Context) error {
	rows, err := v.ledger.Leases(ctx)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	for _, row := range rows {
		if row.Free() {
			continue
		}
		group.Go(func() { v.leases.recover(ctx, row) })
	}
	group.Wait()
	if err := v.endUnknown(ctx); err != nil {
		return err
	}
	return v.dropUnused(ctx, rows)
}

// recover ends one lease of an earlier process.
func (l *leases) recover(ctx context.Context, row job.Lease) {
	if err := l.endStored(ctx, row.Volume); err != nil {
		l.log.Warn("a lease of before the start has not ended", "volume", row.Volume, "epoch", row.Epoch, "err", err)
		return
	}
	l.log.Info("a lease of before the start was ended", "volume", row.Volume, "epoch", row.Epoch,
		"holder", row.Holder.String())
}

// endStored ends the stored lease of a volume that this process has not granted. It returns nil when nothing of it can
// write any more. Errors are those of endLeftover, and Conflict if the volume is being taken.
func (l *leases) endStored(ctx context.Context, volume string) error {
	g, err := l.reserve(ctx, volume, job.LeaseAsked{})
	if err != nil {
		return err
	}
	defer l.dropEnded(g)
	g.unread = true
	if err := g.read(ctx); err != nil || g.now().Free() {
		return err
	}
	return g.endLeftover(ctx)
}

// endLeftover ends a lease that an earlier process has left, within 5 s. Its open files are gone with it; its export
// may still stand. The caller drops the grant, by dropEnded: if the export does not end in time, the error says so, and
// the grant is dropped when it has ended.
func (g *grant) endLeftover(ctx context.Context) error {
	l := g.now()
	if err := g.step(ctx, job.LeaseRestarted{}); err != nil {
		return err
	}
	if !l.Served {
		return g.step(ctx, job.LeaseFenced{Epoch: l.Epoch})
	}
	gone, err := g.endServer(l)
	if err != nil {
		return err
	}
	late := time.NewTimer(fenceTime)
	defer late.Stop()
	select {
	case <-gone:
		return g.step(ctx, job.LeaseFenced{Epoch: l.Epoch})
	case <-late.C:
	}
	ctx = context.WithoutCancel(ctx)
	g.heldUp(ctx, job.EndRestarted, silentStorage)
	g.leases.mu.Lock()
	g.ending = true
	g.leases.mu.Unlock()
	go func() {
		<-gone
		g.over(ctx, job.EndRestarted)
	}()
	_, _, err = g.now().Apply(job.LeaseAsked{Epoch: l.Epoch + 1}, g.leases.now())
	return err
}

// step is apply for a grant that stays in the map although its lease is free.
func (g *grant) step(ctx context.Context, e job.LeaseEvent) error {
	g.change.Lock()
	defer g.change.Unlock()
	return g.fold(ctx, e)
}

// endServer kills the processes that may serve that lease, and says when they have ended.
func (g *grant) endServer(l job.Lease) (gone <-chan struct{}, err error) {
	var found []leftover
	if s := l.Server; s.PID > 0 && s.Boot == bootID() {
		if start, err := processStart(s.PID); err == nil && start == s.Start {
			found = append(found, leftover{pid: s.PID, start: s.Start})
		}
	}
	all, err := leftovers(g.leases.node)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.volume == l.Volume && p.file == l.Server.File {
			found = append(found, p)
		}
	}
	return endAll(g.leases, found), nil
}

// endUnknown ends exports of this node that no lease tells of: the journal was restored, and is older.
func (v *Volumes) endUnknown(ctx context.Context) error {
	all, err := leftovers(v.leases.node)
	if err != nil || len(all) == 0 {
		return err
	}
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return err
	}
	targets := map[string]string{}
	for _, r := range rows {
		if info, err := os.Stat(r.Target); err == nil {
			targets[r.LeaseID()] = numberOf(info)
		}
	}
	var found []leftover
	for _, p := range all {
		if g := v.leases.find(p.volume); g != nil {
			continue // it is being ended
		}
		if file := targets[p.volume]; file == "" || file == p.file {
			found = append(found, p)
			v.log.Warn("an export that the journal does not know is ended", "volume", p.volume, "epoch", p.epoch,
				"pid", p.pid)
		}
	}
	select {
	case <-endAll(v.leases, found):
	case <-time.After(fenceTime): // its locks keep others from the volume
		v.log.Warn("an export that the journal does not know does not end", "why", silentStorage)
	case <-ctx.Done():
	}
	return nil
}

// dropUnused drops free leases of volumes that the ledger does not know any more. Their epochs are not used again.
func (v *Volumes) dropUnused(ctx context.Context, leases []job.Lease) error {
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range rows {
		known[r.LeaseID()] = true
	}
	var unused []string
	for _, l := range leases {
		if l.Free() && !known[l.Volume] {
			unused = append(unused, l.Volume)
		}
	}
	return v.ledger.DropLeases(ctx, unused)
}

// leftovers lists the processes whose environment says that they serve an export of that node.
func leftovers(node string) ([]leftover, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, job.SystemError("look for exports", "", err)
	}
	var out []leftover
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, ok := readLeftover(pid, node); ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// readLeftover asks one process. ok is false for one that is none of ours, or that may not be asked: that of another
// user is not ours.
func readLeftover(pid int, node string) (p leftover, ok bool) {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	env, err := os.ReadFile(filepath.Join(folder, "environ"))
	if err != nil || node == "" {
		return p, false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		name, ours := strings.CutPrefix(string(v), exportTag+"="+node+"/")
		if !ours {
			continue
		}
		volume, epoch, _ := strings.Cut(name, "@")
		p = leftover{pid: pid, volume: volume}
		if p.epoch, err = strconv.ParseInt(epoch, 10, 64); err != nil {
			return p, false
		}
		if p.start, err = processStart(pid); err != nil {
			return p, false
		}
		if info, err := os.Stat(filepath.Join(folder, "fd", strconv.Itoa(serverFile))); err == nil {
			p.file = numberOf(info)
		}
		return p, true
	}
	return p, false
}

// numberOf names a file or device by the numbers that the kernel has for it while it is there.
func numberOf(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	if info.Mode()&os.ModeDevice != 0 {
		return "device " + devno(uint64(st.Rdev)) //nolint:unconvert // the type differs between machines
	}
	return fmt.Sprintf("file %s:%d", devno(uint64(st.Dev)), st.Ino) //nolint:unconvert // likewise
}

// endAll kills processes and waits for their end. A process that can't be killed counts as one that has not ended.
func endAll(l *leases, found []leftover) <-chan struct{} {
	var group sync.WaitGroup
	for _, p := range found {
		group.Go(func() {
			for err := end(p); err != nil; err = end(p) {
				l.log.Warn("an export of before the start could not be ended", "pid", p.pid, "err", err)
				pause := time.NewTimer(fenceTime)
				select {
				case <-pause.C:
				case <-l.stopping:
					return
				}
			}
		})
	}
	gone := make(chan struct{})
	go func() {
		group.Wait()
		close(gone)
	}()
	return gone
}

// end kills a process that is not a child of this one, and returns when it has ended with all its threads. The number
// is compared with the start once more when the process is held: it may be another one's by now.
func end(p leftover) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // it was only asked
	if start, err := processStart(p.pid); err != nil || start != p.start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
