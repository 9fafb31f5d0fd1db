//go:build faultinject

package simulated_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/transfer"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/dispatch"
)

const keepAlive = 15 * time.Second // after that long a connection over a network that is cut is given up

// conn is a connection of an agent to the controller, as gRPC would make it. Both ends die with their process.
// One over which a cut came carries nothing any more, and is given up only after keepAlive.
type conn struct {
	n      *node
	agent  *process
	broken atomic.Bool
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	with *controller
	last *agentv1.OpenSessionResponse // with tasks in it, as it came last
	down chan proto.Message           // of the session
}

var errUnreachable = status.Error(codes.Unavailable, "the network is cut, or the other end is dead")

func (n *node) dial(p *process) *conn {
	c := &conn{n: n, agent: p}
	c.ctx, c.cancel = context.WithCancelCause(p.ctx)
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.conn = c
	return c
}

// reach finds the controller that this end talks to.
func (c *conn) reach() (*controller, error) {
	c.n.w.mu.Lock()
	defer c.n.w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.with == nil && !c.n.cut {
		c.with = c.n.w.controllerOf(c.n)
		if c.with != nil {
			context.AfterFunc(c.with.ctx, func() { c.cancel(errUnreachable) })
		}
	}
	if c.with == nil || c.with.live() != nil || c.ctx.Err() != nil || c.agent.live() != nil {
		return nil, errUnreachable
	}
	return c.with, nil
}

// cutOff makes the connection carry nothing any more. The caller holds the world's lock.
func (c *conn) cutOff() {
	c.broken.Store(true)
	time.AfterFunc(keepAlive, func() { c.cancel(errUnreachable) })
}

func (c *conn) Invoke(ctx context.Context, _ string, args, _ any, _ ...grpc.CallOption) error {
	with, err := c.reach()
	if err != nil {
		return err
	}
	if c.broken.Load() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.ctx.Done():
			return errUnreachable
		}
	}
	beat, ok := args.(*agentv1.HeartbeatRequest)
	if !ok {
		return fmt.Errorf("the simulated network knows no %T", args)
	}
	return with.dispatcher.Heartbeat(c.n.key(), proto.CloneOf(beat))
}

func (c *conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	with, err := c.reach()
	if err != nil {
		return nil, err
	}
	s := &stream{c: c, up: make(chan proto.Message, 256), down: make(chan proto.Message, 256), done: make(chan struct{})}
	s.ctx = ctx
	server, end := context.WithCancelCause(context.Background())
	stop := context.AfterFunc(ctx, func() {
		if !c.broken.Load() {
			end(context.Canceled)
		}
	})
	context.AfterFunc(c.ctx, func() { end(errUnreachable) })
	with.wg.Go(func() {
		defer stop()
		defer end(nil)
		s.err = with.serve(method, &serverEnd{stream: s, ctx: server}, c)
		close(s.done)
	})
	return s, nil
}

// serve does what package api does for a call.
func (k *controller) serve(method string, s *serverEnd, c *conn) error {
	switch method[strings.LastIndexByte(method, '/')+1:] {
	case "OpenSession":
		c.mu.Lock()
		c.down = s.down
		c.mu.Unlock()
		hello := new(agentv1.OpenSessionRequest)
		if err := s.RecvMsg(hello); err != nil {
			return err
		}
		return k.dispatcher.OpenSession(c.n.key(), hello, &grpc.GenericServerStream[agentv1.OpenSessionRequest, agentv1.OpenSessionResponse]{ServerStream: s})
	case "ReportTask":
		return k.dispatcher.ReportTask(c.n.key(), &grpc.GenericServerStream[agentv1.ReportTaskRequest, agentv1.ReportTaskResponse]{ServerStream: s})
	}
	return fmt.Errorf("the simulated network knows no %s", method)
}

// stream is the agent's end of a call.
type stream struct {
	c        *conn
	ctx      context.Context
	up, down chan proto.Message
	closed   sync.Once
	done     chan struct{} // closed when the other end has returned err
	err      error
}

func (s *stream) Header() (metadata.MD, error) { return nil, nil }
func (s *stream) Trailer() metadata.MD         { return nil }
func (s *stream) Context() context.Context     { return s.ctx }

func (s *stream) CloseSend() error {
	s.closed.Do(func() { close(s.up) })
	return nil
}

func (s *stream) SendMsg(m any) error {
	if s.c.agent.live() != nil || s.c.ctx.Err() != nil {
		return io.EOF
	}
	if s.c.broken.Load() {
		return nil // nobody knows yet that it goes nowhere
	}
	if r, ok := m.(*agentv1.ReportTaskRequest); ok && r.GetReport().GetState() != agentv1.TaskState_TASK_STATE_RUNNING && s.c.n.loses() {
		s.c.cancel(errUnreachable)
		return io.EOF
	}
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	select {
	case s.up <- proto.Clone(message):
		return nil
	case <-s.done:
		return io.EOF
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-s.c.ctx.Done():
		return io.EOF
	}
}

func (s *stream) RecvMsg(m any) error {
	into, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	for {
		select {
		case got := <-s.down:
			if s.c.broken.Load() {
				continue
			}
			s.c.twice(got, s.down)
			proto.Reset(into)
			proto.Merge(into, got)
			return nil
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-s.c.ctx.Done():
			return errUnreachable
		case <-s.ended():
			if s.err == nil {
				return io.EOF
			}
			return s.err
		}
	}
}

// ended is done once everything was received. An end that is cut off does not learn of the other's.
func (s *stream) ended() <-chan struct{} {
	if s.c.broken.Load() || len(s.down) > 0 {
		return nil
	}
	return s.done
}

// twice delivers a message with tasks once more where a test asked for that.
func (c *conn) twice(m proto.Message, down chan proto.Message) {
	r, ok := m.(*agentv1.OpenSessionResponse)
	if !ok || len(r.GetTasks()) == 0 {
		return
	}
	again := &agentv1.OpenSessionResponse{Tasks: r.GetTasks()}
	c.mu.Lock()
	c.last = again
	c.mu.Unlock()
	if c.n.doubles() {
		down <- again
	}
}

// again delivers the last tasks once more.
func (c *conn) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.down != nil {
		select {
		case c.down <- c.last:
		default: // the session has ended long ago
		}
	}
}

// serverEnd is the controller's end of a call.
type serverEnd struct {
	*stream
	ctx context.Context
}

func (s *serverEnd) SetHeader(metadata.MD) error  { return nil }
func (s *serverEnd) SendHeader(metadata.MD) error { return nil }
func (s *serverEnd) SetTrailer(metadata.MD)       {}
func (s *serverEnd) Context() context.Context     { return s.ctx }

func (s *serverEnd) SendMsg(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	select {
	case s.down <- proto.Clone(message):
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *serverEnd) RecvMsg(m any) error {
	into, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	select {
	case got, open := <-s.up:
		if !open {
			return io.EOF
		}
		proto.Reset(into)
		proto.Merge(into, got)
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (n *node) key() dispatch.Key { return dispatch.Key{Cluster: clusterName, Node: n.name} }

// fetcher moves copies between nodes, as package transfer does: down a chain, each node serving what it has.
type fetcher struct{ *mounted }

func (f fetcher) Fetch(ctx context.Context, spec *agentv1.FetchCopy, progress func(done, total int64)) (*agentv1.Fetched, error) {
	name, sha := spec.GetManifest().GetName(), spec.GetManifest().GetSha256()
	good := false
	err := f.change(func(d *disk) error {
		if f.claimed[name] {
			return fmt.Errorf("fetch: snapshot %s is being written", name)
		}
		if content := d.copies[name]; content != nil {
			_, has := sums(content)
			if good = has == sha; good {
				d.manifests[name] = proto.CloneOf(spec.GetManifest())
				return nil
			}
		}
		f.claimed[name] = true
		return nil
	})
	if err != nil || good {
		return &agentv1.Fetched{}, err
	}
	defer f.release(name)
	const rounds = 3
	for range rounds {
		for _, source := range spec.GetSources() {
			progress(0, spec.GetManifest().GetSize())
			if err = f.from(ctx, source.GetNode(), spec, progress); err == nil {
				return &agentv1.Fetched{Nodes: []string{source.GetNode()}}, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
		if err := f.p.work(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("fetch: no source brings more: %w", err)
}

// Follow takes over what a neighbour saves until that one has ended, and keeps it.
func (f fetcher) Follow(ctx context.Context, spec *agentv1.FollowCopy, progress func(done, total int64)) error {
	const chunk, pause, patience = 2048, 50 * time.Millisecond, 5 * time.Second
	name := spec.GetName()
	err := f.change(func(d *disk) error {
		if f.claimed[name] {
			return fmt.Errorf("follow: snapshot %s is being written", name)
		}
		f.claimed[name], d.parts[name] = true, []byte{}
		return nil
	})
	if err != nil {
		return err
	}
	defer f.release(name)
	for idle := time.Duration(0); idle < patience; idle += pause {
		if f.p.work(ctx, pause) != nil {
			return nil
		}
		err := f.change(func(d *disk) error {
			from, err := f.w.served(ctx, f.node, spec.GetSource().GetNode(), name)
			if have := d.parts[name]; err == nil && len(have) < len(from) {
				d.parts[name], idle = append(have, from[len(have):min(len(from), len(have)+chunk)]...), 0
			}
			return nil
		})
		if err != nil {
			return errors.Join(err, f.access(func(d *disk) error { delete(d.parts, name); return nil }))
		}
		progress(0, 0)
	}
	return nil
}

func (f fetcher) release(name string) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.claimed, name)
}

// from fetches from one source, which may still be receiving, until it brings nothing for some seconds.
func (f fetcher) from(ctx context.Context, source string, spec *agentv1.FetchCopy, progress func(done, total int64)) error {
	const chunk, pause, patience = 2048, 50 * time.Millisecond, 5 * time.Second
	idle := time.Duration(0)
	for {
		if err := f.p.work(ctx, pause); err != nil {
			return err
		}
		moved, done, err := f.chunk(ctx, source, spec, chunk)
		if err != nil || done {
			return err
		}
		if idle += pause; moved > 0 {
			idle = 0
		}
		if idle > patience {
			return fmt.Errorf("%s brings nothing", source)
		}
		progress(moved, spec.GetManifest().GetSize())
	}
}

func (f fetcher) chunk(ctx context.Context, source string, spec *agentv1.FetchCopy, size int) (moved int64, done bool, err error) {
	m := spec.GetManifest()
	err = f.change(func(d *disk) error {
		from, err := f.w.served(ctx, f.node, source, m.GetName())
		if err != nil {
			return err
		}
		have := d.parts[m.GetName()]
		if len(have) < len(from) {
			next := from[len(have):min(len(from), len(have)+size)]
			d.parts[m.GetName()] = append(have, next...)
			moved = int64(len(next))
		}
		if done = int64(len(d.parts[m.GetName()])) == m.GetSize(); !done {
			return nil
		}
		if _, sha := sums(d.parts[m.GetName()]); sha != m.GetSha256() {
			delete(d.parts, m.GetName())
			return errors.New("what came is another file")
		}
		d.copies[m.GetName()], d.manifests[m.GetName()] = d.parts[m.GetName()], proto.CloneOf(m)
		delete(d.parts, m.GetName())
		return nil
	})
	return moved, done, err
}

// served is what a node lets another one read of a copy. The caller holds the lock.
func (w *world) served(ctx context.Context, to *node, source, name string) ([]byte, error) {
	from := w.node(source)
	switch {
	case from.cut || to.cut || from.agent == nil || from.agent.live() != nil:
		return nil, fmt.Errorf("%s is not reached", source)
	case from.grants == nil:
		return nil, errors.New("no grants")
	}
	if err := from.grants.MayRead(ctx, transfer.Peer{Cluster: clusterName, Node: to.name, Key: keyOf(to.name)}, name); err != nil {
		return nil, err
	}
	if whole := from.disk.copies[name]; whole != nil {
		return whole, nil
	}
	return from.disk.parts[name], nil
}

func keyOf(node string) string { return "key-of-" + node }
