//go:build faultinject

package simulated_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/fault"
)

var (
	seedOf = flag.Uint64("simulated.seed", 0, "seed of the random runs; 0 for another one each time")
	runs   = flag.Int("simulated.runs", 40, "how many random runs")
)

// inWorld runs a test in a world of its own.
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	dir, err := os.MkdirTemp(fastDir(), "requorum-simulated-") //nolint:usetesting // in memory, if there is a place for that
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer func() {
			w.end()
			for _, wrong := range w.wrongs {
				t.Error(wrong)
			}
			if t.Failed() {
				t.Log(w.lines.String())
			}
		}()
		test(w)
	})
}

// TestRandomFaults lets several faults come in one run, wherever they fall.
func TestRandomFaults(t *testing.T) {
	seed := *seedOf
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("go test -tags faultinject ./e2e/simulated -run TestRandomFaults -simulated.seed=%d -simulated.runs=%d", seed, *runs)
	where := passages(t)
	points := slices.DeleteFunc(fault.Names(), func(p string) bool { return len(where[p]) == 0 })
	troubles := slices.Concat(faults, remoteFaults)
	for i := range *runs {
		chance := rand.New(rand.NewPCG(seed, uint64(i)))
		s := scenarios[chance.IntN(len(scenarios))]
		var armed []*arming
		var told []string
		for range 2 + chance.IntN(3) {
			a := &arming{point: points[chance.IntN(len(points))], nth: 1 + chance.IntN(3), fault: troubles[chance.IntN(len(troubles))]}
			armed = append(armed, a)
			told = append(told, fmt.Sprintf("%s at passage %d of %s", a.fault, a.nth, a.point))
		}
		t.Run(fmt.Sprintf("%d %s", i, s.name), func(t *testing.T) {
			t.Parallel()
			r := play(t, s, armed...)
			r.check(t)
			if t.Failed() {
				t.Log(strings.Join(told, "\n"))
			}
		})
	}
}

// TestACopiedControllerIsFenced brings back a controller of which the data was copied in the middle of a restore.
// Whatever it still wants to do, no node does it.
func TestACopiedControllerIsFenced(t *testing.T) {
	if r := play(t, scenarios[0]); len(r.wrongs) > 0 { // which declares the points
		t.Fatal(r.wrongs)
	}
	for _, point := range fault.Names() {
		if !strings.HasPrefix(point, "controller/restore/") || !strings.HasSuffix(point, "/after-intent") {
			continue
		}
		for _, fails := range []string{"", "controller/restore/verify/before-outcome"} {
			t.Run(point+" "+fails, func(t *testing.T) {
				t.Parallel()
				inWorld(t, func(w *world) { w.comesBack(point, fails) })
			})
		}
	}
}

func (w *world) comesBack(point, fails string) {
	var kept *memory
	w.note(func() {
		w.armed = []*arming{
			{point: fails, nth: 1, fault: trouble{kind: "error"}},
			{point: point, nth: 1, fault: trouble{kind: "copy"}},
		}
	})
	op, err := startRestore(w.controller)
	w.must(err)
	w.await("the operation has ended", 15*time.Minute, func() bool { return terminal(w.operation(op.GetId())) })
	w.note(func() { kept = w.kept })
	if kept == nil {
		return // a restore that was put back before it came to the point
	}
	w.restartAll() // the newer controller, so that its epoch is higher
	w.await("every agent has a session", time.Minute, w.connected)
	late := w.newController(kept)
	w.note(func() { w.route = func(*node) *controller { return late } })
	for _, n := range w.nodes {
		w.killAgent(n) // its sessions begin anew, with the old controller
	}
	w.must(wait(w.t.Context(), 5*time.Minute))
	for _, n := range w.nodes {
		if late.dispatcher.Info(n.key()).Connected {
			w.note(func() { w.wrong("%s obeys a controller of an older epoch", n.name) })
		}
	}
	w.kill(late.process)
	late.wg.Wait()
	w.note(func() { w.route = nil })
	w.await("every agent has a session", 2*time.Minute, w.connected)
	w.judge(w.operation(op.GetId()))
}

// TestANodeThatMissedARestore comes back with old data and an old generation: its etcd is kept stopped, until a restore
// takes it in.
func TestANodeThatMissedARestore(t *testing.T) {
	inWorld(t, func(w *world) {
		gone := w.nodes[2]
		w.powerOff(gone)
		w.restore("n1", "n2")
		w.startAgent(gone)
		w.note(func() { gone.powered = true; gone.run() })
		w.await("the node that came back is fenced", time.Minute, func() bool {
			state, err := gone.journal.State()
			w.must(err)
			return state.GetFenced()
		})
		w.await("its etcd is stopped", time.Minute, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return !gone.etcd.running })
		w.note(func() { gone.etcd.wanted = true; gone.run() }) // by a person, or a reboot
		w.await("its etcd is stopped again", time.Minute, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return !gone.etcd.running })
		w.restore("n1", "n2", "n3")
		w.await("the node serves again", time.Minute, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			members, _ := gone.group()
			return len(members) == size
		})
	})
}

// TestARemoteThatHangsForEver does not keep a cluster from its next operation: a save ends, with its remote or without.
func TestARemoteThatHangsForEver(t *testing.T) {
	for want, start := range map[requorumv1.OperationState]func(*controller) (*requorumv1.Operation, error){
		requorumv1.OperationState_OPERATION_STATE_REVERTED: startSave, requorumv1.OperationState_OPERATION_STATE_SUCCEEDED: startSaveAnyway,
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			inWorld(t, func(w *world) {
				w.note(func() {
					w.armed = []*arming{{point: "agent/upload-copy/middle", nth: 1, fault: trouble{kind: "remote-hung-forever"}}}
				})
				op, err := start(w.controller)
				w.must(err)
				w.await("the operation has ended", 30*time.Minute, func() bool { return terminal(w.operation(op.GetId())) })
				if op = w.operation(op.GetId()); op.GetState() != want || len(op.GetWarnings()) == 0 {
					t.Errorf("it ended %s: %v, %v", op.GetState(), op.GetFailure(), op.GetWarnings())
				}
				w.note(w.bucket.heal)
				w.judge(op)
			})
		})
	}
}

// powerOff ends a machine and all that runs on it.
func (w *world) powerOff(n *node) {
	w.kill(n.agent)
	n.agent.wg.Wait()
	w.note(func() { n.powered, n.etcd.running = false, false })
	w.await("the controller misses it", time.Minute, func() bool { return !w.controller.dispatcher.Info(n.key()).Connected })
}

// restore restores the nodes named, which must work.
func (w *world) restore(nodes ...string) {
	w.t.Helper()
	op, err := w.controller.restores.Start(context.Background(), &requorumv1.StartRestoreRequest{Spec: &requorumv1.RestoreSpec{
		Cluster: clusterName, Snapshot: goodName, Nodes: nodes, Quarantine: durationpb.New(time.Hour),
	}}, "test")
	w.must(err)
	w.await("the restore has ended", 10*time.Minute, func() bool { return terminal(w.operation(op.GetId())) })
	if op = w.operation(op.GetId()); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		w.t.Errorf("the restore of %v ended %s: %v", nodes, op.GetState(), op.GetFailure())
	}
}
