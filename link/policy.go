package link

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/asynkron/protoactor-go/actor"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Policy says what a peer may send to this node. What it does not allow is refused and counted. The zero value allows
// nothing.
type Policy struct {
	Rules []Rule
	// Watched are actors that a peer may watch, in the form of Rule.Target.
	Watched []string
	// Watchers are actors of this node that watch actors of peers: they get the news of their end.
	Watchers []string
}

// Rule allows messages of some types to some actors.
type Rule struct {
	Target string   // name of an actor; with * at its end, of all that begin so
	Types  []string // full names of protobuf messages
}

// closed are actors that no rule opens: they start actors of any kind, or are answers to questions of this node, whose
// names can be guessed.
func closed(target string) bool {
	return target == "" || target == "activator" || strings.HasPrefix(target, "EndpointSupervisor") ||
		strings.HasPrefix(target, "future") || strings.HasPrefix(target, "$")
}

func matches(patterns []string, target string) bool {
	return !closed(target) && slices.ContainsFunc(patterns, func(p string) bool {
		start, open := strings.CutSuffix(p, "*")
		return p == target || open && strings.HasPrefix(target, start)
	})
}

// refusal is why a message was refused. Cause is one of the causes below: a label of a metric.
type refusal struct {
	cause string
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// The causes for which messages and connections are refused.
const (
	causeType     = "type"
	causeTarget   = "target"
	causePID      = "pid"
	causeSender   = "sender"
	causeSize     = "size"
	causeFrame    = "frame"
	causeIdentity = "identity" // of a certificate, or of a Hello
	causeVersion  = "version"
	causeName     = "name" // taken by another process
	causeJoin     = "join"
)

func refuse(cause, format string, args ...any) error {
	return &refusal{cause, fmt.Errorf(format, args...)}
}

// causeOf is the cause of an error; causeFrame for one without.
func causeOf(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.cause
	}
	return causeFrame
}

// addressOf is the address of a node's actors, and nameOf the node of such an address.
func addressOf(node string) string { return addressStart + node }

const addressStart = "node:///"

// check says whether a message of a type may go to a target.
func (p Policy) check(target, kind string) error {
	open := false
	for _, r := range p.Rules {
		if !matches([]string{r.Target}, target) {
			continue
		}
		open = true
		if slices.Contains(r.Types, kind) {
			return nil
		}
	}
	if open {
		return refuse(causeType, "actor %.80q takes no %.80q", target, kind)
	}
	return refuse(causeTarget, "actor %.80q is not open to other nodes", target)
}

// decode checks a message of a peer and reads it. self and peer are names of nodes.
func (p Policy) decode(self, peer, target, kind string, data []byte) (proto.Message, error) {
	if len(data) > mostMessage {
		return nil, refuse(causeSize, "a message of %d bytes", len(data))
	}
	if err := p.check(target, kind); err != nil {
		return nil, err
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(kind))
	if err != nil {
		return nil, refuse(causeType, "type %.80q is not known here", kind)
	}
	m := t.New().Interface()
	if err := (proto.UnmarshalOptions{RecursionLimit: mostDepth}).Unmarshal(data, m); err != nil {
		return nil, refuse(causeType, "this is not a %s: %w", kind, err)
	}
	return m, checkPIDs(m.ProtoReflect(), []string{addressOf(self), addressOf(peer)})
}

// checkPIDs refuses a message that names actors of other nodes than these: this node would connect to them, or believe
// that they are its own.
func checkPIDs(m protoreflect.Message, addresses []string) (err error) {
	if pid, ok := m.Interface().(*actor.PID); ok {
		return checkPID(pid, addresses)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				err = checkPIDs(v.Message(), addresses)
				return err == nil
			})
		case f.IsList() && f.Message() != nil:
			for i := 0; i < v.List().Len() && err == nil; i++ {
				err = checkPIDs(v.List().Get(i).Message(), addresses)
			}
		case !f.IsMap() && f.Message() != nil:
			err = checkPIDs(v.Message(), addresses)
		}
		return err == nil
	})
	return err
}

func checkPID(pid *actor.PID, addresses []string) error {
	if pid == nil || pid.Id == "" || len(pid.Id) > mostName {
		return refuse(causePID, "an actor without a name, or with one that is too long")
	}
	if !slices.Contains(addresses, pid.Address) {
		return refuse(causePID, "actor %.80q is at %.80q, which is not this peer", pid.Id, pid.Address)
	}
	return nil
}
