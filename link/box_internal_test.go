package link

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/cert"
	"github.com/vmferry/vmferry/link/wire"
)

func text(s string) *wire.Message { return &wire.Message{Target: "a", Type: "b", Data: []byte(s)} }

// TestEachMessageIsHandedOnOnceInOrder posts, loses frames and acknowledgements, and begins new sessions at random. At
// the end a session without losses brings everything over.
func TestEachMessageIsHandedOnOnceInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := newOutbox("peer"), newInbox()
		in.begin(1)
		var got, posted []string
		unfinished := []uint64{}
		newest, shown := map[string]string{}, map[string]string{}
		var at mark
		sent := func(loses bool) {
			f, then := out.next(at)
			if f == nil {
				return
			}
			at = then
			if loses {
				return
			}
			if l := f.GetLatest(); l != nil {
				shown[l.Key] = string(l.Message.Data)
				return
			}
			isNew, err := in.take(f.GetPost().Id)
			if err != nil {
				t.Fatal(err)
			}
			if isNew {
				got = append(got, string(f.GetPost().Message.Data))
				unfinished = append(unfinished, f.GetPost().Id)
			}
		}
		broken := false // what is sent after a loss does not arrive: a stream has no holes
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				posted = append(posted, fmt.Sprint(len(posted)))
				if err := out.post(text(posted[len(posted)-1])); err != nil {
					t.Fatal(err)
				}
			case 1:
				key := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "key")
				newest[key] = fmt.Sprint(len(newest), len(posted), rapid.Int().Draw(t, "value"))
				if err := out.latest(key, text(newest[key])); err != nil {
					t.Fatal(err)
				}
			case 2, 3:
				broken = broken || rapid.Bool().Draw(t, "lost")
				sent(broken)
			case 4:
				if len(unfinished) > 0 {
					n := rapid.IntRange(0, len(unfinished)-1).Draw(t, "which")
					in.finish(1, unfinished[n], done)
					unfinished = append(unfinished[:n:n], unfinished[n+1:]...)
				}
			case 5:
				ids, _ := in.takeAcks()
				if !broken {
					out.acked(ids)
				}
			case 6:
				at, broken = mark{}, false
				in.begin(1)
			}
		}
		at = mark{}
		in.begin(1)
		for f, _ := out.next(at); f != nil; f, _ = out.next(at) {
			sent(false)
		}
		for _, id := range unfinished {
			in.finish(1, id, done)
		}
		ids, no := in.takeAcks()
		out.acked(ids)
		if fmt.Sprint(got) != fmt.Sprint(posted) || out.waiting() != 0 || len(no) > 0 || out.bytes != 0 {
			t.Errorf("posted %v, handed on %v; %d wait (%d bytes)", posted, got, out.waiting(), out.bytes)
		}
		if fmt.Sprint(newest) != fmt.Sprint(shown) {
			t.Errorf("newest %v, shown %v", newest, shown)
		}
	})
}

func TestAnOutboxIsBounded(t *testing.T) {
	o := newOutbox("vma-1")
	for range mostPosts {
		if err := o.post(text("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.post(text("x")); job.KindOf(err) != job.Unavailable || job.NextOf(err) == "" {
		t.Errorf("one too many: %v", err)
	}
	o.acked([]uint64{1})
	if err := o.post(text("x")); err != nil {
		t.Errorf("after an acknowledgement: %v", err)
	}
	o = newOutbox("vma-1")
	large := &wire.Message{Target: "a", Type: "b", Data: make([]byte, mostMessage)}
	n := 0
	for err := error(nil); err == nil; n++ {
		err = o.post(large)
	}
	if want := mostPostBytes/mostMessage + 1; n != want {
		t.Errorf("large message %d was refused, want %d", n, want)
	}
	for i := range mostKeys {
		if err := o.latest(fmt.Sprint(i), text("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.latest("one more", text("x")); job.KindOf(err) != job.Unavailable {
		t.Errorf("one key too many: %v", err)
	}
	o.forget("7")
	if err := o.latest("one more", text("x")); err != nil {
		t.Errorf("after one was forgotten: %v", err)
	}
}

func TestAnInboxTakesNoIDsThatLeaveOthersOut(t *testing.T) {
	i := newInbox()
	i.begin(1)
	if _, err := i.take(2); err == nil {
		t.Error("message 2 was taken before message 1")
	}
	for id := range uint64(mostPosts + 1) {
		if _, err := i.take(id + 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := i.take(mostPosts + 2); err == nil {
		t.Error("a peer may have any number of messages unacknowledged")
	}
}

func TestARefusedMessageIsToldSoAgain(t *testing.T) {
	i := newInbox()
	i.begin(1)
	for id := range uint64(3) {
		if fresh, err := i.take(id + 1); !fresh || err != nil {
			t.Fatal(err)
		}
	}
	i.finish(1, 1, refused)
	i.finish(1, 2, done)
	i.finish(1, 2, refused) // only the first result counts
	i.begin(1)              // the acknowledgements were lost
	for id := range uint64(3) {
		if fresh, err := i.take(id + 1); fresh || err != nil {
			t.Errorf("message %d is new again: %v", id+1, err)
		}
	}
	if ids, no := i.takeAcks(); fmt.Sprint(ids, no) != "[2] [1]" {
		t.Errorf("done %v, refused %v", ids, no)
	}
	i.begin(2) // another process
	i.finish(1, 3, done)
	if fresh, err := i.take(1); !fresh || err != nil {
		t.Errorf("the first message of another process is not new: %v", err)
	}
	if ids, no := i.takeAcks(); len(ids)+len(no) > 0 {
		t.Errorf("acknowledged %v %v of the process before", ids, no)
	}
}

// TestBothNodesKeepTheSameOfTwoSessions has two nodes that dial at once, and know each other's name in another case
// than the certificates have it: one of them keeps the session that it has dialled, the other one takes it.
func TestBothNodesKeepTheSameOfTwoSessions(t *testing.T) {
	keepsItsOwn := func(self, name string) bool {
		p := newPeer(name, "")
		session := func(dialled bool) *control {
			c := newControl(nil, func() {}, cert.Identity{Name: name}, &wire.Hello{Node: name, Incarnation: 1}, 1)
			c.dialled = dialled
			return c
		}
		if _, err := p.take(session(true), self); err != nil {
			t.Fatal(err)
		}
		_, err := p.take(session(false), self)
		return err != nil
	}
	for _, n := range [][2]string{{"vma-1", "oma"}, {"VMA-1", "oma"}, {"Oma", "a"}, {"B", "a"}} {
		one, two := keepsItsOwn(n[0], strings.ToLower(n[1])), keepsItsOwn(strings.ToUpper(n[1]), n[0])
		if one == two {
			t.Errorf("%v: both nodes keep their own session, or none does: %v", n, one)
		}
	}
}
