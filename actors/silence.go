package actors

import (
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// silence watches the calls of one step or attempt, and tells the Aggregator when one of them is not answered. It
// belongs to one actor.
type silence struct {
	calls      job.Calls
	aggregator *actor.PID
	job        job.ID
	disk       job.DiskID // "" for a step
	told       time.Time  // since when, as it was told; zero for no silence
	ticks      scheduler.CancelFunc
}

// listen asks an actor to look at the calls under way.
type listen struct{ noDeadLetterLog }

const (
	listenEvery = 500 * time.Millisecond
	// A silence is to show within report.SilentAfter, so it is told a little earlier.
	silentAfter = report.SilentAfter - time.Second
)

// listenTo sends the actor listen, until stop.
func (s *silence) listenTo(c actor.Context) {
	s.ticks = scheduler.NewTimerScheduler(c.ActorSystem().Root).SendRepeatedly(listenEvery, listenEvery, c.Self(),
		listen{})
}

// look tells of a silence that began or ended.
func (s *silence) look(c actor.Context) {
	peer, since, ok := s.calls.Silent()
	if !ok || time.Since(since) < silentAfter {
		since = time.Time{}
	}
	if since.Equal(s.told) {
		return
	}
	s.told = since
	c.Send(s.aggregator, messages.Silence{Silence: report.Silence{Job: s.job, Disk: s.disk, Of: peer, Since: since}})
}

// stop ends the ticks. A nil silence has ended.
func (s *silence) stop() {
	if s != nil && s.ticks != nil {
		s.ticks()
	}
}

// since is when the peer was heard last that a failure is about; zero if that is not known.
func (s *silence) since(err error) time.Time {
	peer := job.PeerOf(err)
	if peer == job.PeerHost {
		peer = job.PeerVCenter // which tells of its hosts
	}
	return s.calls.Failed(peer)
}
