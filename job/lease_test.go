package job_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
)

// TestLeaseConversations plays each file of testdata/leases, as TestConversations does for jobs. The commands are the
// names of events, with their fields.
func TestLeaseConversations(t *testing.T) {
	files, err := filepath.Glob("testdata/leases/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no conversations: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := playLease(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("conversation differs (-want +got):\n%s", d)
			}
		})
	}
}

func playLease(t *testing.T, text string) string {
	t.Helper()
	l, now := job.Lease{Volume: "V"}, time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)
	var out strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		for line := range strings.SplitSeq(block, "\n") {
			if line == "----" {
				break
			}
			out.WriteString(line + "\n")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			next, actions, err := l.Apply(leaseEvent(t, line), now)
			out.WriteString("----\n" + leaseAnswer(l, next, actions, err))
			l = next
		}
		out.WriteString("\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func leaseEvent(t *testing.T, line string) job.LeaseEvent {
	t.Helper()
	words := strings.Fields(line)
	f := map[string]string{}
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		f[k] = strings.ReplaceAll(v, "_", " ")
	}
	number := func(k string) int64 {
		if f[k] == "" {
			return 0
		}
		n, err := strconv.ParseInt(f[k], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	_, served := f["served"]
	_, foreign := f["foreign"]
	switch words[0] {
	case "asked":
		return job.LeaseAsked{
			Holder: job.LeaseHolder{Kind: job.LeaseKind(f["kind"]), Node: f["node"], Job: job.ID(f["job"])},
			Served: served, Foreign: foreign, Epoch: number("epoch"), Granter: "G",
		}
	case "served":
		return job.LeaseServed{Epoch: number("epoch"), Server: job.LeaseServer{PID: int(number("pid"))}}
	case "used":
		return job.LeaseUsed{Epoch: number("epoch"), Kind: job.LeaseKind(f["kind"])}
	case "checkpointed":
		return job.LeaseCheckpointed{Epoch: number("epoch"), Number: number("number")}
	case "ended":
		return job.LeaseEnded{Epoch: number("epoch"), Why: job.LeaseEnd(f["why"])}
	case "held_up":
		return job.LeaseHeldUp{Epoch: number("epoch"), Note: f["note"]}
	case "fenced":
		return job.LeaseFenced{Epoch: number("epoch")}
	case "restarted":
		return job.LeaseRestarted{}
	}
	t.Fatalf("unknown command %q", line)
	return nil
}

func leaseAnswer(was, now job.Lease, actions []job.LeaseAction, err error) string {
	var out strings.Builder
	if err != nil {
		fmt.Fprintf(&out, "error %s: %v", job.KindOf(err), err)
		if next := job.NextOf(err); next != "" {
			fmt.Fprintf(&out, "; next: %s", next)
		}
		out.WriteString("\n")
	}
	if was.State == "" {
		was.State = job.LeaseFree
	}
	if now == was {
		if err == nil && len(actions) == 0 {
			out.WriteString("nothing\n")
		}
	} else {
		fmt.Fprintf(&out, "%s, epoch %d, %s", now.State, now.Epoch, now.Holder)
		for _, more := range []struct {
			name  string
			value any
			show  bool
		}{
			{"served", "", now.Served},
			{"foreign", "", now.Foreign},
			{"pid", now.Server.PID, now.Server.PID != 0},
			{"checkpoint", now.Checkpoint, now.Checkpoint != 0},
			{"why", now.Why, now.Why != ""},
			{"note", now.Note, now.Note != ""},
		} {
			if more.show {
				fmt.Fprintf(&out, ", %s", strings.TrimSpace(fmt.Sprint(more.name, " ", more.value)))
			}
		}
		out.WriteString("\n")
	}
	for _, a := range actions {
		fmt.Fprintf(&out, "do %s\n", strings.TrimPrefix(fmt.Sprintf("%T %+v", a, a), "job."))
	}
	return out.String()
}

// TestALeaseHasOneHolderWhateverHappens folds random events, late and repeated ones among them, and checks what must
// hold after each.
func TestALeaseHasOneHolderWhateverHappens(t *testing.T) {
	t.Parallel()
	now := time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC)
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 26))
		var l job.Lease
		next, fenced := int64(1), int64(0) // all epochs up to fenced are over
		for range 200 {
			epoch := max(0, l.Epoch+int64(r.IntN(4))-2)
			var e job.LeaseEvent
			switch r.IntN(8) {
			case 0:
				e = job.LeaseAsked{Holder: job.LeaseHolder{Node: "n"}, Served: r.IntN(2) == 0, Epoch: next}
				next++
			case 1:
				e = job.LeaseServed{Epoch: epoch}
			case 2:
				e = job.LeaseCheckpointed{Epoch: epoch, Number: int64(r.IntN(100))}
			case 3:
				e = job.LeaseEnded{Epoch: epoch, Why: job.EndExpired}
			case 4:
				e = job.LeaseHeldUp{Epoch: epoch, Note: "n"}
			case 5: // it is fenced only if its end was asked for
				if l.State != job.LeaseEnding {
					continue
				}
				e, fenced = job.LeaseFenced{Epoch: l.Epoch}, l.Epoch
			case 6:
				e = job.LeaseUsed{Epoch: epoch, Kind: job.HolderVerify}
			default:
				e = job.LeaseRestarted{}
			}
			was := l
			after, actions, err := l.Apply(e, now)
			l = after
			switch {
			case err != nil && len(actions) > 0:
				t.Fatalf("seed %d: %T failed and has actions", seed, e)
			case err != nil && (l.Epoch != was.Epoch || l.Checkpoint != was.Checkpoint || l.Holder != was.Holder):
				t.Fatalf("seed %d: %T failed and changed the lease", seed, e)
			case l.Epoch < was.Epoch || l.Checkpoint < was.Checkpoint:
				t.Fatalf("seed %d: %T goes back from %+v to %+v", seed, e, was, l)
			case l.Epoch > was.Epoch && was.Epoch > fenced:
				t.Fatalf("seed %d: epoch %d begins and epoch %d was not fenced", seed, l.Epoch, was.Epoch)
			case l.State == job.LeaseOpen && was.Epoch == l.Epoch && was.State == job.LeaseEnding:
				t.Fatalf("seed %d: %T opens a lease that is ending", seed, e)
			}
		}
	}
}
