//go:build faultinject

package simulated_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/fault"
)

const (
	scheduleName         = "often"
	keptLocal, keptThere = 3, 2
)

// TestPoliciesOverFaults lets a schedule run for a while, with files, a remote, retention in both places and drills, while
// things go wrong. Once everything is well again nodes, remote and catalog are exactly as the schedule wants them.
func TestPoliciesOverFaults(t *testing.T) {
	seed := *seedOf
	if seed == 0 {
		seed = rand.Uint64()
	}
	many := max(*runs/4, 1)
	t.Logf("go test -tags faultinject ./e2e/simulated -run TestPoliciesOverFaults -simulated.seed=%d -simulated.runs=%d", seed, *runs)
	for i := range many {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			chance := rand.New(rand.NewPCG(seed, uint64(i)))
			inWorld(t, func(w *world) { w.keepsPolicy(chance, i > 0) })
		})
	}
}

// scheduled are the points that what a schedule begins may pass.
var scheduled = regexp.MustCompile("^controller/(save|delete|verify|upload)/|^agent/(save|pack|upload|download|drop|list|hash|drill|fetch|serve|follow)")

func (w *world) keepsPolicy(chance *rand.Rand, faulty bool) {
	w.startSchedules()
	_, _, err := w.controller.schedules.Apply(&requorumv1.Schedule{
		Name: scheduleName, Cluster: clusterName, Every: durationpb.New(5 * time.Minute), Prefix: scheduleName, Files: []string{fileSet},
		LocalStorage:  &requorumv1.Retention{Last: keptLocal},
		RemoteStorage: &requorumv1.RemoteStorage{Remote: remoteName, Retention: &requorumv1.Retention{Last: keptThere}},
		Drill:         &requorumv1.Drill{After: 2},
		Retry:         &requorumv1.Retry{After: durationpb.New(30 * time.Second)},
	}, "test")
	w.must(err)
	if faulty {
		w.note(func() { w.armed = w.someFaults(chance) })
	}
	w.must(wait(w.t.Context(), 40*time.Minute))
	w.restartAll()
	w.await("every agent has a session", time.Minute, w.connected)
	var why string
	if !w.await("nodes and remote are as the schedule wants", 40*time.Minute, func() bool { why = w.offPolicy(); return why == "" }) {
		w.note(func() { w.wrong("%s", why) })
	}
	if faulty && w.fired == 0 {
		w.t.Log("nothing went wrong")
	}
}

func (w *world) someFaults(chance *rand.Rand) (armed []*arming) {
	points := slices.DeleteFunc(fault.Names(), func(p string) bool { return !scheduled.MatchString(p) })
	troubles := slices.Concat(faults, remoteFaults, remoteFaults)
	for range 8 {
		armed = append(armed, &arming{point: points[chance.IntN(len(points))], nth: 1 + chance.IntN(8), fault: troubles[chance.IntN(len(troubles))]})
	}
	return armed
}

// startSchedules has this controller, and those that come after it, keep schedules and look at copies.
func (w *world) startSchedules() {
	w.note(func() { w.automatic = true })
	w.controller.startSchedules(w)
}

func (k *controller) startSchedules(w *world) {
	for name, run := range map[string]func() error{
		"scheduler":  func() error { return k.schedules.Run(k.hooked) },
		"reconciler": func() error { return k.copies.Run(k.hooked) },
	} {
		k.wg.Go(func() {
			if err := run(); err != nil && k.live() == nil {
				w.note(func() { w.wrong("the %s gave up: %v", name, err) })
			}
		})
	}
}

// offPolicy tells what is not as the schedule wants it, empty if everything is.
func (w *world) offPolicy() string {
	w.mu.Lock()
	k := w.controller
	w.mu.Unlock()
	if k.engine.Running(clusterName) != "" {
		return "an operation is under way"
	}
	snaps, err := k.catalog.Snapshots(clusterName)
	w.must(err)
	ops, err := k.engine.List(clusterName, math.MaxInt)
	w.must(err)
	var mine []*requorumv1.Snapshot
	for _, s := range snaps {
		if s.GetSchedule() == scheduleName && s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
			mine = append(mine, s)
		}
	}
	slices.SortFunc(mine, func(a, b *requorumv1.Snapshot) int { return b.GetCreated().AsTime().Compare(a.GetCreated().AsTime()) })
	if len(mine) != keptLocal {
		return fmt.Sprintf("the catalog has %d snapshots of the schedule", len(mine))
	}
	if !slices.ContainsFunc(mine, func(s *requorumv1.Snapshot) bool { return s.GetVerified() != nil }) {
		return "none of them was drilled"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range mine {
		if there := len(s.GetRemotes()) == 1 && s.GetRemotes()[0].GetState() == requorumv1.CopyState_COPY_STATE_GOOD; there != (i < keptThere) {
			return fmt.Sprintf("%s is number %d and the remote copies are %v", s.GetName(), i, s.GetRemotes())
		}
	}
	return w.offPolicyOnDisks(mine, snaps, ops)
}

// offPolicyOnDisks compares the disks and the bucket with what is to be there. The caller holds the lock.
func (w *world) offPolicyOnDisks(mine, snaps []*requorumv1.Snapshot, ops []*requorumv1.Operation) string {
	wanted := map[string]bool{goodName: true, elderName: true, importFile: true}
	for _, s := range mine {
		wanted[s.GetName()] = true
	}
	for _, n := range w.nodes {
		if got := slices.Sorted(maps.Keys(n.disk.copies)); len(got) != len(wanted) || slices.ContainsFunc(got, func(name string) bool { return !wanted[name] }) {
			return fmt.Sprintf("%s has %v", n.name, got)
		}
		if len(n.disk.parts) > 0 || len(n.disk.staging) > 0 {
			return n.name + " has something that is not complete"
		}
	}
	keys := map[string]bool{}
	for _, s := range snaps {
		for _, c := range s.GetRemotes() {
			keys[c.GetObject().GetKey()], keys["etcd/"+clusterName+"/"+s.GetName()+".json"] = true, true
			for _, o := range bundlesOf(c.GetBundles()) {
				keys[o.GetKey()] = true
			}
		}
	}
	for key := range w.bucket.objects {
		if !keys[key] && !slices.ContainsFunc(ops, func(op *requorumv1.Operation) bool { return leftInRemote(op, key) }) {
			return "the remote has " + key + ", and nobody says so"
		}
		delete(keys, key)
	}
	if len(keys) > 0 {
		return "the remote lacks " + strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
	}
	return ""
}
