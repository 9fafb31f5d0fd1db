// Package dispatch gives tasks to nodes. Agents dial in and open a session each; a task that is wanted
// is sent when it comes and again whenever its node opens a session, until the node has answered it.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/failure"
)

// Options set the times after which a silent node is given up. Zero values stand for the defaults.
type Options struct {
	Heartbeat time.Duration // interval of heartbeats; a session without three of them is lost. Default 2 s.
	Offline   time.Duration // how long a task waits for a node that has no session. Default 30 s.
	Stall     time.Duration // how long a task may run without any sign of progress. Default 2 min.
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.Heartbeat, 2*time.Second)
	set(&o.Offline, 30*time.Second)
	set(&o.Stall, 2*time.Minute)
	return o
}

// Key names a node.
type Key struct{ Cluster, Node string }

// Dispatcher knows the sessions and the tasks that are wanted.
type Dispatcher struct {
	opts         Options
	log          hclog.Logger
	epoch        uint64
	controllerID string
	records      Records

	mu      sync.Mutex
	nodes   map[Key]*node
	removed map[Key]bool
	started time.Time
}

// Records is what the dispatcher needs of the controller's records.
type Records interface {
	// Generation returns a cluster's generation, and whether the node was enrolled since the last
	// restore and takes it over.
	Generation(cluster, node string) (generation uint64, adopt bool, err error)
	// Seen notes that a node was heard of.
	Seen(cluster, node, transferAddress string) error
	// Keys returns the keys by which a node is known now; none of one that was removed or never was.
	Keys(cluster, node string) ([]string, error)
	// RemoteMarker returns the marker of a directory remote, empty while none is known.
	RemoteMarker(remote string) (string, error)
	// MarkRemote keeps the marker of a directory remote, unless another one is known, and returns the one that is.
	MarkRemote(remote, marker string) (string, error)
}

// node is what is known of one node. Dispatcher.mu guards it.
type node struct {
	key     Key
	session *session
	seen    time.Time
	info    Info
	changed chan struct{} // closed and replaced when a session comes or goes
	tasks   map[string]*pending
}

// pending is a task that somebody waits for.
type pending struct {
	task    *agentv1.Task
	reports chan *agentv1.TaskReport
}

// ErrRemoved is the cause of a failure on a node that was removed.
var ErrRemoved = errors.New("the node was removed")

// ErrStalled is the cause of a task's end that showed no progress for too long, on a node that has a session.
var ErrStalled = errors.New("the task has stalled")

// New returns a dispatcher for a controller of that epoch and identity.
func New(epoch uint64, controllerID string, records Records, opts Options, log hclog.Logger) *Dispatcher {
	return &Dispatcher{
		opts: opts.withDefaults(), log: log, epoch: epoch, controllerID: controllerID, records: records,
		nodes: make(map[Key]*node), removed: make(map[Key]bool), started: time.Now(),
	}
}

// Recall makes a node known from the records, as when the controller was restarted: where neighbours reach
// it, before it has opened a session, and whether it was removed.
func (d *Dispatcher) Recall(key Key, transferAddress string, removed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if removed {
		d.removed[key] = true
		return
	}
	d.node(key).info.TransferAddress = transferAddress
}

// Do gives a task to a node and waits for the answer. It fails with a *failure.Error when the node
// reports a failure, has no session for Options.Offline or shows no progress for Options.Stall. When
// it returns, the node has been told that the task is not wanted any more.
func (d *Dispatcher) Do(ctx context.Context, cluster, name string, task *agentv1.Task, report func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	task = proto.CloneOf(task)
	task.Epoch, task.ControllerId = d.epoch, d.controllerID
	if err := d.giveMarker(remoteOf(task)); err != nil {
		return nil, err
	}
	p := &pending{task: task, reports: make(chan *agentv1.TaskReport, 1)}
	n := d.want(Key{cluster, name}, p)
	defer d.unwant(n, task.GetId())
	return d.await(ctx, n, p, report)
}

func (d *Dispatcher) await(ctx context.Context, n *node, p *pending, report func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	w := d.newWatchdog()
	defer w.stop()
	for {
		connected, changed, removed := d.presence(n)
		if removed {
			return nil, &failure.Error{Node: n.key.Node, Message: "the node was removed from the cluster", Cause: ErrRemoved}
		}
		if err := w.presence(n.key.Node, connected); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		case r := <-p.reports:
			if err := d.takeMarker(n.key.Node, remoteOf(p.task), r.GetRemoteMarker()); err != nil {
				return nil, err
			}
			if done, result, err := answer(n.key.Node, p.task, r); done {
				return result, err
			}
			w.progress(r.GetTicks())
			report(r)
		case <-w.timer.C:
			if !d.stirs(n, p, connected) {
				return nil, w.expired(n.key.Node, connected)
			}
			w.timer.Reset(time.Millisecond) // what stirs is looked at first
		}
	}
}

// stirs tells whether something came in just as time ran out, as when this machine was suspended.
func (d *Dispatcher) stirs(n *node, p *pending, connected bool) bool {
	now, _, _ := d.presence(n)
	return now != connected || len(p.reports) > 0
}

// maxSessions is how many sessions in a row may end before a task makes progress. A task that brings its
// agent down each time would otherwise never be given up.
const maxSessions = 10

// watchdog tells when a task is to be given up: its node is away for too long, its ticks stand still, or
// it loses one session after the other.
type watchdog struct {
	opts      Options
	timer     *time.Timer
	connected bool
	ticks     uint64 // as last reported
	highest   uint64 // ticks ever reported; an agent that starts a task over begins at zero
	sessions  int    // since highest has grown
}

func (d *Dispatcher) newWatchdog() *watchdog {
	return &watchdog{opts: d.opts, timer: time.NewTimer(d.opts.Offline)}
}

func (w *watchdog) stop() { w.timer.Stop() }

func (w *watchdog) presence(node string, connected bool) error {
	if connected == w.connected {
		return nil
	}
	w.connected = connected
	if !connected {
		w.timer.Reset(w.opts.Offline)
		return nil
	}
	if w.sessions++; w.sessions > maxSessions {
		return failure.On(node, fmt.Sprintf("its session was lost %d times without any progress", maxSessions), "look at the agent's log on that node")
	}
	w.timer.Reset(w.opts.Stall)
	return nil
}

func (w *watchdog) progress(ticks uint64) {
	if ticks == w.ticks {
		return
	}
	w.ticks = ticks
	if ticks > w.highest {
		w.highest, w.sessions = ticks, 0
	}
	if w.connected {
		w.timer.Reset(w.opts.Stall)
	}
}

func (w *watchdog) expired(node string, connected bool) error {
	if connected {
		return &failure.Error{Node: node, Message: fmt.Sprintf("no progress for %s", w.opts.Stall), Advice: "look at the agent's log on that node", Cause: ErrStalled}
	}
	return failure.On(node, fmt.Sprintf("no answer for %s", w.opts.Offline), "check that its agent runs and reaches the controller")
}

// answer tells whether a report ends the task, and how.
func answer(node string, task *agentv1.Task, r *agentv1.TaskReport) (done bool, result *agentv1.TaskResult, err error) {
	switch r.GetState() {
	case agentv1.TaskState_TASK_STATE_DONE:
		if lacks(task, r.GetResult()) {
			return true, nil, failure.On(node, "its agent's answer does not fit the question", "run the same version of requorum everywhere")
		}
		return true, r.GetResult(), nil
	case agentv1.TaskState_TASK_STATE_FAILED:
		e := r.GetError()
		return true, nil, &failure.Error{Node: node, Message: e.GetMessage(), Advice: e.GetAdvice(), Cause: &TaskError{Code: e.GetCode()}}
	}
	return false, nil, nil
}

// lacks tells whether a task that is to find something has found nothing.
func lacks(task *agentv1.Task, r *agentv1.TaskResult) bool {
	switch task.GetSpec().(type) {
	case *agentv1.Task_InspectNode:
		return r.GetNode() == nil
	case *agentv1.Task_HashKv:
		return r.GetHashKv() == nil
	case *agentv1.Task_SaveCopy, *agentv1.Task_ImportCopy, *agentv1.Task_SaveOld:
		return r.GetCopy() == nil
	case *agentv1.Task_InspectCopy:
		return r.GetManifest() == nil
	case *agentv1.Task_HashCopy:
		return r.GetHashed() == nil
	case *agentv1.Task_Stage:
		return r.GetStaged() == nil
	case *agentv1.Task_Verify:
		return r.GetVerified() == nil
	case *agentv1.Task_Swap:
		return r.GetSwapped() == nil
	case *agentv1.Task_InspectOld:
		return r.GetOld() == nil
	case *agentv1.Task_UploadCopy, *agentv1.Task_UploadFiles:
		return r.GetStored() == nil
	case *agentv1.Task_ListRemote:
		return r.GetRemote() == nil
	case *agentv1.Task_PackFiles:
		return r.GetBundle() == nil
	case *agentv1.Task_CompareFiles:
		return r.GetCompared() == nil
	case *agentv1.Task_DrillCopy:
		return r.GetDrilled() == nil
	}
	return false
}

// TaskError is the cause of a *failure.Error that a node reported.
type TaskError struct{ Code agentv1.TaskErrorCode }

func (e *TaskError) Error() string { return e.Code.String() }

// want adds a task to a node's and sends it if the node has a session.
func (d *Dispatcher) want(key Key, p *pending) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(key)
	n.tasks[p.task.GetId()] = p
	if n.session != nil {
		n.session.send(&agentv1.OpenSessionResponse{Tasks: []*agentv1.Task{p.task}})
	}
	return n
}

// Uses tells whether a task that a node has uses a remote.
func (d *Dispatcher) Uses(key Key, remote string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[key]
	if n == nil || d.removed[key] {
		return false
	}
	for _, p := range n.tasks {
		if r := remoteOf(p.task); r != nil && r.GetName() == remote {
			return true
		}
	}
	return false
}

// remoteOf returns the remote of a task, nil if it has none.
func remoteOf(task *agentv1.Task) *agentv1.Remote {
	m := task.ProtoReflect()
	spec := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec"))
	if spec == nil {
		return nil
	}
	if s, ok := m.Get(spec).Message().Interface().(interface{ GetRemote() *agentv1.Remote }); ok {
		return s.GetRemote()
	}
	return nil
}

func (d *Dispatcher) unwant(n *node, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(n.tasks, id)
	if n.session != nil {
		n.session.send(&agentv1.OpenSessionResponse{CancelTaskIds: []string{id}})
	}
}

// node returns the node of that key, making it if it is new. The caller holds mu.
func (d *Dispatcher) node(key Key) *node {
	n := d.nodes[key]
	if n == nil {
		n = &node{key: key, changed: make(chan struct{}), tasks: make(map[string]*pending)}
		d.nodes[key] = n
	}
	return n
}

func (d *Dispatcher) presence(n *node) (connected bool, changed <-chan struct{}, removed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return n.session != nil, n.changed, d.removed[n.key]
}

// gatherFor is how many heartbeats a node is waited for that may be on its way back: since this
// controller has started, or since the node was last heard of.
const gatherFor = 5

// Gather returns when each of the nodes has a session or has been away for some heartbeats. Agents need
// a moment to come back to a controller that has started, or with a new certificate, and are not away
// because of that.
func (d *Dispatcher) Gather(ctx context.Context, cluster string, names []string) {
	for _, name := range names {
		if !d.gather(ctx, Key{cluster, name}) {
			return
		}
	}
}

// gather waits for one node. It tells whether others are to be waited for.
func (d *Dispatcher) gather(ctx context.Context, key Key) bool {
	for {
		changed, wait := d.missing(key)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// missing tells for how long to wait for a node, 0 if it has a session, and when to look again.
func (d *Dispatcher) missing(key Key) (changed <-chan struct{}, wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(key)
	if n.session != nil {
		return n.changed, 0
	}
	last := d.started
	if n.seen.After(last) {
		last = n.seen
	}
	return n.changed, time.Until(last.Add(gatherFor * d.opts.Heartbeat))
}

// Remove ends a removed node's session and fails the tasks that wait for it.
func (d *Dispatcher) Remove(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removed[key] = true
	if n := d.nodes[key]; n != nil {
		n.end(errors.New("this node was removed from the cluster"))
		n.signal()
	}
}

// Readmit lets a node that was removed take part again.
func (d *Dispatcher) Readmit(key Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.removed, key)
}

// AskNode asks a node a question outside of an operation.
func (d *Dispatcher) AskNode(ctx context.Context, cluster, name string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	task = proto.CloneOf(task)
	task.Id = "question/" + ulid.Make().String()
	return d.Do(ctx, cluster, name, task, func(*agentv1.TaskReport) {})
}

// Reconnect ends a node's session so that it learns the cluster's generation anew.
func (d *Dispatcher) Reconnect(cluster, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.nodes[Key{cluster, name}]; n != nil {
		n.end(errGeneration)
	}
}

// signal wakes everybody who waits for the node to come or go. The caller holds Dispatcher.mu.
func (n *node) signal() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// end ends the node's session, if it has one. The caller holds Dispatcher.mu.
func (n *node) end(cause error) {
	if n.session != nil {
		n.session.cancel(cause)
		n.session = nil
		n.signal()
	}
}
