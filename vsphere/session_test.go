package vsphere_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestASessionThatEndsBeforeDuringOrAfterATaskIsNotNoticed(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 200 * time.Millisecond})
	var once sync.Once
	cfg := config(t, v)
	cfg.OnTask = func(op string, _ int) {
		if strings.HasPrefix(op, "take snapshot") {
			once.Do(func() { must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions})) })
		}
	}
	c := connect(t, cfg)
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions}))
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	if got := snapshotNames(t, v); len(got) != 1 {
		t.Errorf("snapshots %v", got)
	}
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions}))
	must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots are left: %v", got)
	}
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions})) // Close works without a session
}

func TestAWaitOutlivesAnswersThatFail(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 300 * time.Millisecond})
	var once sync.Once
	cfg := config(t, v)
	cfg.OnTask = func(string, int) {
		once.Do(func() {
			must(t, v.Inject(sim.Fault{Kind: sim.FaultStatus, Status: http.StatusServiceUnavailable, Count: 2}))
		})
	}
	c := connect(t, cfg)
	snapshot(t, c, inspect(t, c, "web"), "vmferry-job-1")
	if got := snapshotNames(t, v); len(got) != 1 {
		t.Errorf("snapshots %v", got)
	}
}

func TestAnIdleSessionExpiresAndOneThatIsKeptAliveDoesNot(t *testing.T) {
	v := vcenter(t, sim.Options{SessionTimeout: 250 * time.Millisecond})
	for _, keep := range []bool{true, false} {
		var out logged
		cfg := config(t, v)
		cfg.Log = out.logger()
		cfg.KeepAlive = -1
		if keep {
			cfg.KeepAlive = 40 * time.Millisecond
		}
		c := connect(t, cfg)
		before, err := c.SessionCookie(t.Context())
		must(t, err)
		<-time.After(900 * time.Millisecond)
		after, err := c.SessionCookie(t.Context())
		must(t, err)
		if same := before == after; same != keep {
			t.Errorf("kept alive %v: the same session %v", keep, same)
		}
		if told := strings.Contains(out.String(), "logged in to the vCenter again"); told == keep {
			t.Errorf("kept alive %v, and the log says:\n%s", keep, out.String())
		}
	}
}

func TestAReadWorksAgainWithTheNewCookie(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	e, err := c.Export(t.Context(), vm, s, "disk-2000")
	must(t, err)
	p := make([]byte, 4096)
	must(t, https(t, e)(p, mib))
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions}))
	if err := https(t, e)(p, mib); err == nil {
		t.Error("the old cookie is still good")
	}
	cookie, err := c.SessionCookie(t.Context())
	must(t, err)
	for i := range e.Params {
		if e.Params[i].Renewed {
			e.Params[i].Secret = cookie
		}
	}
	must(t, https(t, e)(p, mib))
}

func TestManyQueriesAtOnceLogInAgainOnce(t *testing.T) {
	v := vcenter(t, sim.Options{MaxAreas: 1})
	var out logged
	cfg := config(t, v)
	cfg.Log = out.logger()
	c := connect(t, cfg)
	vm := inspect(t, c, "web")
	_, err := c.EnsureCBT(t.Context(), vm)
	must(t, err)
	s := snapshot(t, c, vm, "vmferry-job-1")
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions}))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := c.ChangedAreas(t.Context(), vm, s, "disk-2000", "*"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(out.String(), "again"); n != 1 {
		t.Errorf("logged in again %d times", n)
	}
}

func TestAPasswordThatIsRefusedIsNotRepeatedUntilItsFileChanges(t *testing.T) {
	v := vcenter(t, sim.Options{})
	cfg := config(t, v)
	c := connect(t, cfg)
	must(t, os.WriteFile(cfg.PasswordFile, []byte("changed too early"), 0o600))
	must(t, v.Inject(sim.Fault{Kind: sim.FaultSessions}))
	_, err := c.Inspect(t.Context(), "web")
	wantKind(t, err, job.Auth, cfg.PasswordFile)
	_, err = c.Inspect(t.Context(), "web")
	wantKind(t, err, job.Auth, "has not changed")
	must(t, os.WriteFile(cfg.PasswordFile, []byte(password), 0o600))
	inspect(t, c, "web")
}

func TestACallThatTheVCenterDoesNotAnswerEndsWithItsContext(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	must(t, v.Inject(sim.Fault{Kind: sim.FaultCallSlow, Op: "CurrentTime", Delay: time.Minute}))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.SessionCookie(ctx)
	wantKind(t, err, job.Timeout)
}
