package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
)

// patienceFlags are the flags that say how long a job waits for what is unavailable.
type patienceFlags struct{ usual, lastRound string }

const (
	patienceFlag  = "patience"
	lastRoundFlag = "last-round-patience"
)

func (p *patienceFlags) add(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&p.usual, patienceFlag, "",
		"how long a job waits for a vCenter, host, source or target that is unavailable, as in 4h "+
			"(default: limits.patience of the daemon)")
	fs.StringVar(&p.lastRound, lastRoundFlag, "",
		"the same in the last round after a cutover, as in 10m (default: limits.last_round_patience of the daemon)")
}

// into sets the options that are given.
func (p *patienceFlags) into(o *job.Options) (err error) {
	if o.Patience, err = patience(patienceFlag, p.usual); err != nil {
		return err
	}
	o.LastRoundPatience, err = patience(lastRoundFlag, p.lastRound)
	return err
}

// change sets the limits that are given. 0 restores that of the daemon.
func (p *patienceFlags) change(l *job.Limited, given func(string) bool) error {
	for _, f := range []struct {
		name, text string
		to         **time.Duration
	}{{patienceFlag, p.usual, &l.Patience}, {lastRoundFlag, p.lastRound, &l.LastRoundPatience}} {
		if !given(f.name) {
			continue
		}
		d, err := patience(f.name, f.text)
		if err != nil {
			return err
		}
		*f.to = &d
	}
	return nil
}

// patience reads the value of a flag; 0 for "".
func patience(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := job.ParsePatience(text)
	if err != nil {
		return 0, Usage("--%s: %v", name, err)
	}
	return d, nil
}
