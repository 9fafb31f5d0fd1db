//go:build faultinject

package simulated_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	restart    = 5 * time.Second  // from a process's death until it is started again
	cutFor     = 45 * time.Second // longer than offline_after
	fullFor    = time.Minute
	hangForNow = 10 * time.Minute // longer than stalled_after
)

// arming is a fault that waits for its point.
type arming struct {
	point string
	nth   int // passage at which it fires, from 1
	fault trouble
}

// trouble is what happens at a point: something to a node, or to everything.
type trouble struct {
	kind string
	node string // the node that fired the point, or n1, if empty
}

func (f trouble) String() string { return strings.TrimSpace(f.kind + " " + f.node) }

// faults are the columns of the matrix.
var faults = columns()

func columns() (all []trouble) {
	for _, kind := range []string{"kill-controller", "kill-all", "hang", "hang-forever", "twice", "lost"} {
		all = append(all, trouble{kind: kind})
	}
	for i := range size {
		for _, kind := range []string{"kill-agent", "kill-etcd", "cut", "disk-full"} {
			all = append(all, trouble{kind: kind, node: fmt.Sprintf("n%d", i+1)})
		}
	}
	return all
}

// remoteFaults are what may happen to the object store.
var remoteFaults = []trouble{{kind: "remote-away"}, {kind: "remote-denied"}, {kind: "remote-full"}, {kind: "remote-hung"}, {kind: "remote-dies"}, {kind: "remote-cut"}, {kind: "remote-lost"}}

// at is passed at every fault point of every process. n is the node of an agent, nil for a controller.
func (w *world) at(ctx context.Context, p *process, n *node, point string) error {
	w.mu.Lock()
	if p.live() != nil {
		w.mu.Unlock()
		return stuck(p)
	}
	w.passed[point]++
	if n != nil && n.hang != nil && strings.HasSuffix(point, "/before") {
		f := *n.hang
		n.hang = nil
		w.mu.Unlock()
		return w.hang(ctx, p, n, n, f)
	}
	var fires *arming
	for _, a := range w.armed {
		if a.point == point && a.nth == w.passed[point] {
			fires = a
			w.fired++
		}
	}
	w.mu.Unlock()
	if fires == nil {
		return nil
	}
	w.log.Warn("FAULT", "point", point, "fault", fires.fault.String(), "in", p.name)
	return w.strike(ctx, p, n, fires.fault)
}

// stuck is where a killed process stays: not one more instruction of it counts.
func stuck(p *process) error {
	<-p.ctx.Done()
	return errDead
}

// strike makes a fault happen in a process that has come to a point.
func (w *world) strike(ctx context.Context, p *process, n *node, f trouble) error {
	target := n
	if f.node != "" {
		target = w.node(f.node)
	}
	if target == nil {
		target = w.nodes[0]
	}
	switch f.kind {
	case "error":
		return errors.New("made to fail")
	case "hang", "hang-forever":
		return w.hang(ctx, p, n, target, f.kind == "hang-forever")
	case "copy":
		w.note(func() { w.kept = w.memory.copied() })
	case "twice":
		return w.deliverTwice(target)
	case "lost":
		w.note(func() { target.lose++ })
	case "kill-controller":
		w.killController()
	case "kill-agent":
		w.killAgent(target)
	case "kill-etcd":
		w.note(target.crash)
	case "kill-all":
		w.killAll()
	case "cut":
		w.cut(target)
	case "disk-full":
		w.note(func() { target.disk.full = true })
		w.later(fullFor, func() { target.disk.full = false })
	case "remote-away", "remote-denied", "remote-full", "remote-hung":
		out, _ := strings.CutPrefix(f.kind, "remote-")
		w.note(func() { w.bucket.out = out })
		w.later(w.outage(f), func() { w.bucket.out = "" })
	case "remote-hung-forever":
		w.note(func() { w.bucket.out = "hung" })
	case "remote-dies":
		w.note(func() { w.bucket.dies = 1 })
		w.later(outFor, func() { w.bucket.out, w.bucket.dies = "", 0 })
	case "remote-cut":
		w.note(func() { w.bucket.cuts++ })
	case "remote-lost":
		w.note(func() { w.bucket.loses++ })
	default:
		return fmt.Errorf("there is no fault %q", f.kind)
	}
	if p.live() != nil {
		return stuck(p)
	}
	return nil
}

// outage is how long the object store is out of order.
func (w *world) outage(f trouble) time.Duration {
	if f.kind == "remote-hung" {
		return hangForNow
	}
	return outFor
}

func (w *world) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// later does something with the lock held, unless the world has ended by then.
func (w *world) later(after time.Duration, f func()) {
	w.busy.Go(func() {
		if wait(context.Background(), after) != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.ended {
			f()
		}
	})
}

// hang makes the task hang that has come to the point; if a controller has, the next one on the target.
// One that hangs forever does not even notice that it was cancelled.
func (w *world) hang(ctx context.Context, p *process, n, target *node, forever bool) error {
	if n == nil {
		w.note(func() { target.hang = &forever })
		return nil
	}
	if forever {
		return stuck(p)
	}
	return wait(ctx, hangForNow)
}

func (w *world) deliverTwice(target *node) error {
	w.note(func() { target.double++ })
	w.mu.Lock()
	c := target.conn
	w.mu.Unlock()
	if c != nil {
		c.again()
	}
	return nil
}

// loses tells whether the answer that is being sent is to be lost.
func (n *node) loses() bool { return n.takes(&n.lose) }

// doubles tells whether the message that has come is to come once more.
func (n *node) doubles() bool { return n.takes(&n.double) }

func (n *node) takes(count *int) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if *count == 0 {
		return false
	}
	*count--
	return true
}

func (w *world) killController() {
	w.mu.Lock()
	k := w.controller
	w.controller = nil
	w.mu.Unlock()
	if k == nil {
		return
	}
	w.kill(k.process)
	w.busy.Go(func() {
		if wait(context.Background(), restart) == nil {
			k.wg.Wait()
			w.unlessEnded(func() bool { return w.controller == nil }, func() { w.startController() })
		}
	})
}

func (w *world) killAgent(n *node) {
	w.mu.Lock()
	p := n.agent
	w.mu.Unlock()
	if p.live() != nil {
		return // dead already
	}
	w.kill(p)
	w.busy.Go(func() {
		if wait(context.Background(), restart) == nil {
			p.wg.Wait()
			w.unlessEnded(func() bool { return n.agent == p }, func() { w.startAgent(n) })
		}
	})
}

func (w *world) unlessEnded(still func() bool, f func()) {
	w.starting.Lock()
	defer w.starting.Unlock()
	w.mu.Lock()
	goes := still()
	w.mu.Unlock()
	if goes {
		f()
	}
}

// killAll is a power failure of every machine.
func (w *world) killAll() {
	w.note(func() {
		for _, n := range w.nodes {
			n.etcd.running, n.powered = false, false
		}
	})
	for _, n := range w.nodes {
		w.killAgent(n)
	}
	w.killController()
	w.later(restart, func() {
		for _, n := range w.nodes {
			n.powered = true
			if n.etcd.wanted {
				n.run()
			}
		}
	})
}

func (w *world) cut(n *node) {
	w.note(func() {
		n.cut = true
		if n.conn != nil {
			n.conn.cutOff()
		}
	})
	w.later(cutFor, func() { n.cut = false })
}
