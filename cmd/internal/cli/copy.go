package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const copyHelp = `Copies disks, without a daemon. SOURCE and TARGET are NBD URIs (nbd://, nbds://, nbd+unix://,
nbds+unix://, nbd+vsock://), regular files or block devices; TARGET can also be null:. A target file that does not exist
is made. All of them hold raw disks: a local file that begins as qcow2, vmdk, vhdx, vdi or the like is refused, and the
error has the command that serves what it holds over NBD. --format raw copies such a file byte for byte.

With --changed only the ranges in a file like [{"offset":0,"length":65536}] are copied, zeros included. Ranges may
overlap and come in any order. With --checkpoint an interrupted copy goes on from where it was. After SIGTERM or Ctrl-C
the copy flushes, records its progress and ends within 2 s. After a lost connection it tries again, see --reconnect.

Several pairs are copied at once and share --bandwidth. A pair that fails does not stop the others. --checkpoint then
names a folder with a file for each pair that is not finished: run the command again with the failed pairs only.

The server of an nbds URI must prove that it is the right one: by a certificate that an authority in the folder of
--tls-certificates has signed for the host in the URI, or by the same key as in the file of --tls-psk.

With --verify full the target is read back and compared with the digests of what was read; the source is not read again.
--receipt records the BLAKE3 digest of the whole disk, the same as b3sum of the source or target.

Exit code 3: not everything is on the targets, or a target holds other bytes.`

const copyExample = `  vmferry copy nbd+unix:///?socket=/run/web.sock /srv/web.raw --checkpoint /var/tmp/web.checkpoint
  vmferry copy nbd://esxi-proxy/web nbds://storage/web --tls-certificates /etc/pki/vmferry --changed c.json
  vmferry copy web.raw /dev/vg/web --verify full --receipt web.json
  vmferry copy nbd://a/root root.raw nbd://a/data data.raw --bandwidth 200MiB --checkpoint /var/tmp/web`

const (
	leastBurst   = 1 << 20 // least bytes that may pass at once under a bandwidth limit
	burstsSecond = 8       // otherwise the bytes of an eighth of a second
	digestXXH3   = "xxh3"
	digestNone   = "none"
	engineAuto   = "auto"
	formatAuto   = "auto"
	formatRaw    = "raw"
)

// copyOptions are the flags of the command.
type copyOptions struct {
	changed, checkpoint, receipt string // paths
	verify, digest, engine       string // words
	format                       string // likewise
	bandwidth, requestSize       string // sizes
	reconnect                    time.Duration
	given                        func(flag string) bool
	task                         nbd.Task // the part that all disks have in common
	diskIDs                      []string
	post                         posting
	out                          *Output
	progress                     *Progress
	verbose                      bool
}

func newCopyCommand(s Streams) *cobra.Command {
	o := &copyOptions{}
	c := &cobra.Command{
		Use: "copy SOURCE TARGET [SOURCE TARGET]...", Short: "Copy disks, without a daemon",
		Long: copyHelp, Example: copyExample, Args: pairs,
	}
	o.addFlags(c, s)
	c.RunE = func(c *cobra.Command, args []string) error { return runCopy(c.Context(), s, o, args) }
	return c
}

// pairs checks the arguments: each source needs a target.
func pairs(_ *cobra.Command, args []string) error {
	if len(args) < 2 || len(args)%2 != 0 {
		return fmt.Errorf("each SOURCE needs its TARGET: there are %d arguments", len(args))
	}
	return nil
}

func (o *copyOptions) addFlags(c *cobra.Command, s Streams) {
	f := c.Flags()
	f.StringVar(&o.changed, "changed", "", "copy only the ranges in this JSON file")
	f.StringVar(&o.checkpoint, "checkpoint", "",
		"record progress in this file, and go on from it; a folder for several disks")
	f.StringVar(&o.verify, "verify", string(job.VerifyNone), "read the target back: none, sample, full")
	f.StringVar(&o.digest, "digest", digestXXH3,
		"hash what is read, so that --verify full need not read the source again: xxh3, none")
	f.StringVar(&o.format, "format", formatAuto,
		"what local files are: auto refuses images like qcow2 or vmdk; raw takes all bytes as they are")
	f.StringVar(&o.receipt, "receipt", "",
		"at the end, write the BLAKE3 digest of the whole disk and what was copied to this JSON file")
	f.StringVar(&o.bandwidth, "bandwidth", "", "most bytes a second, over all disks, as in 200MiB")
	f.DurationVar(&o.task.Deadline, "deadline", time.Minute,
		"how long to wait for a server that does not answer")
	f.DurationVar(&o.reconnect, "reconnect", 0,
		"how long to try to connect to a lost server again; 0: never (default as --deadline)")
	f.StringVar(&o.engine, "engine", engineAuto, "which code speaks NBD after the handshake: auto, libnbd")
	f.IntVar(&o.task.Connections, "connections", 0,
		fmt.Sprintf("connections to each side, at most %d (default: as many as help; several disks share them)",
			nbd.MostConnections))
	f.IntVar(&o.task.Requests, "requests", 0,
		fmt.Sprintf("requests in flight on each connection, at most %d (default: as many as help)",
			nbd.MostRequests))
	f.StringVar(&o.requestSize, "request-size", "",
		"bytes of the largest request (default depends on the source; 1MiB for a source nearby)")
	f.StringVar(&o.task.TLS.Certificates, "tls-certificates", "",
		"verify servers of nbds URIs by ca-cert.pem in this folder; client-cert.pem and client-key.pem are ours")
	f.StringVar(&o.task.TLS.PSKFile, "tls-psk", "",
		"use the key in this file for nbds URIs: a line USER:KEY, of which the server has the same")
	f.BoolVar(&o.task.TLS.Unverified, "tls-unverified", false,
		"take any certificate of a server of an nbds URI: whoever answers there gets the bytes")
	f.BoolVar(&o.task.TargetIsZero, "target-is-zero", false, "the target is all zeros: write only data")
	f.StringVar(&o.post.job, "job-id", s.Getenv("MIGRATEKIT_PROGRESS_JOB_ID"),
		"report progress as this job (default $MIGRATEKIT_PROGRESS_JOB_ID)")
	f.StringSliceVar(&o.diskIDs, "disk-id", nil,
		"report progress of this disk of the job; several with commas (default disk-1,disk-2,... for several)")
	f.StringVar(&o.post.url, "progress-url", orDefault(s.Getenv("VMFERRY_PROGRESS_URL"), "http://localhost:8081"),
		"service to which progress is reported (default $VMFERRY_PROGRESS_URL)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what the copy engine chooses and does")
	o.out = OutputFlag(c, AsTable, AsJSON, AsYAML)
	o.progress = ProgressFlag(c)
	o.given = f.Changed
}

func orDefault(v, standard string) string {
	if v == "" {
		return standard
	}
	return v
}

func runCopy(ctx context.Context, s Streams, o *copyOptions, args []string) error {
	disks, err := o.complete(args)
	if err != nil {
		return &exitError{ExitUsage, err}
	}
	plain, err := o.progress.View(s)
	if err != nil {
		return err
	}
	if err := o.makeCheckpoints(disks); err != nil {
		return &exitError{ExitFailed, err}
	}
	began := time.Now()
	shown := &sharedView{view: plain, err: s.Err}
	log := shown.logger(o.verbose)
	stop := newCopyWatch(o, disks, shown, log, began).start(ctx)
	copyAll(ctx, disks, log)
	stop()
	if err := writeReports(s, o.out, disks, time.Since(began)); err != nil {
		return &exitError{ExitFailed, err}
	}
	if err := failureOf(disks); err != nil {
		return &exitError{ExitJobFailed, err}
	}
	return nil
}

// complete makes disks of flags and arguments. Its errors are about how the command was called. It changes nothing.
func (o *copyOptions) complete(args []string) ([]*copyDisk, error) {
	steps := []func() error{
		o.completeWords, o.task.TLS.Check, o.completeTimes, o.completeSizes, o.post.check, o.readChanged,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	disks := o.disks(args)
	return disks, o.checkDisks(disks)
}

// completeWords reads the flags whose values are one of a few words.
func (o *copyOptions) completeWords() error {
	switch job.VerifyMode(o.verify) {
	case job.VerifyNone, job.VerifySample, job.VerifyFull:
	default:
		return fmt.Errorf("--verify is none, sample or full, not %q", o.verify)
	}
	switch o.digest {
	case digestXXH3, digestNone:
	default:
		return fmt.Errorf("--digest is xxh3 or none, not %q", o.digest)
	}
	switch o.format {
	case formatAuto, formatRaw:
	default:
		return fmt.Errorf("--format is auto or raw, not %q", o.format)
	}
	o.task.OnlyRaw = o.format == formatAuto
	switch o.engine {
	case engineAuto:
	case string(nbd.EngineLibnbd):
		o.task.Engine = nbd.EngineLibnbd
	default:
		return fmt.Errorf("--engine is auto or libnbd, not %q", o.engine)
	}
	o.task.NoDigest, o.task.Receipt = o.digest == digestNone, o.receipt != ""
	return nil
}

func (o *copyOptions) completeTimes() error {
	if o.task.Deadline <= 0 {
		return errors.New("--deadline must be more than 0")
	}
	switch {
	case o.reconnect < 0:
		return errors.New("--reconnect must not be negative; 0 means never")
	case o.reconnect == 0 && o.given("reconnect"):
		o.task.Reconnect = -1
	default:
		o.task.Reconnect = o.reconnect // 0 is as long as the deadline
	}
	return nil
}

func (o *copyOptions) completeSizes() error {
	if o.requestSize != "" {
		n, err := job.ParseSize(o.requestSize)
		if err != nil {
			return err
		}
		o.task.RequestSize = int(n)
	}
	if o.bandwidth == "" {
		return nil
	}
	n, err := job.ParseSize(o.bandwidth)
	if err != nil {
		return err
	}
	if n <= 0 {
		return errors.New("--bandwidth must be more than 0")
	}
	o.task.Limiters = []*rate.Limiter{rate.NewLimiter(rate.Limit(n), int(max(leastBurst, n/burstsSecond)))}
	return nil
}

// readChanged makes the copy an incremental one if there is a file of changed ranges.
func (o *copyOptions) readChanged() error {
	if o.changed == "" {
		return nil
	}
	f, err := os.Open(o.changed)
	if err != nil {
		return fmt.Errorf("read changed ranges: %w", err)
	}
	ranges, err := job.ReadExtents(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read changed ranges in %s: %w", o.changed, err)
	}
	o.task.Only, o.task.Incremental = ranges, true
	return nil
}
