package sites

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/fault"
)

const (
	base = "base" // the snapshot that everything is restored from

	heartbeat = time.Second      // a session without three of them ends
	offline   = 8 * time.Second  // how long a task waits for a node whose session has ended
	stalled   = 12 * time.Second // how long a task may show no progress

	controllerHost = "controller"
)

// Kinds of faults.
const (
	reboot   = "reboot"    // in order
	powerCut = "power cut" // and back
	cut      = "cut"       // off the network, for a short time
	longCut  = "long cut"  // for longer than a node is waited for
)

// strike is a fault that a host suffers in the middle of a step of a restore.
type strike struct {
	step, kind, victim string
}

func (s strike) String() string { return s.step + ", " + s.kind + " of " + s.victim }

// seed chooses which host suffers which fault. It is printed, and REQUORUM_HOSTS_SEED repeats it.
func seed(t *testing.T) uint64 {
	t.Helper()
	given := os.Getenv("REQUORUM_HOSTS_SEED")
	if given == "" {
		return 1 + rand.Uint64N(1_000_000)
	}
	n, err := strconv.ParseUint(given, 10, 64)
	if err != nil {
		t.Fatalf("REQUORUM_HOSTS_SEED: %v", err)
	}
	return n
}

// full tells whether every host is to suffer every fault in every step.
func full() bool { return os.Getenv("REQUORUM_HOSTS") == "full" }

// strikes are the faults that a site gets.
func strikes(seed uint64, turn int, hosts []string) []strike {
	if !full() {
		return chosen(seed, turn, hosts)
	}
	var all []strike
	for _, step := range harness.Plans()["restore"] {
		all = append(all, everywhere(step.Name, hosts)...)
	}
	return all
}

// chosen are a fault in every second step of the plan, the other site being struck in the rest, a reboot and a cut in turns.
func chosen(seed uint64, turn int, hosts []string) []strike {
	var all []strike
	for i, step := range harness.Plans()["restore"] {
		at := i + turn + int(seed%4)
		if at%2 != 0 {
			continue
		}
		kinds := []string{cut, longCut}
		if at%4 == 0 {
			kinds = []string{reboot, powerCut}
		}
		h := fnv.New64a()
		fmt.Fprint(h, step.Name, turn)
		r := rand.New(rand.NewPCG(seed, h.Sum64()))
		all = append(all, strike{step.Name, kinds[r.IntN(len(kinds))], hosts[r.IntN(len(hosts))]})
	}
	return all
}

// everywhere is every fault on every host.
func everywhere(step string, hosts []string) []strike {
	var all []strike
	for _, kind := range []string{reboot, powerCut, cut, longCut} {
		for _, victim := range hosts {
			all = append(all, strike{step, kind, victim})
		}
	}
	return all
}

// TestEveryStepIsStruck makes sure that the two sites together leave out no step, and that over seeds every step meets
// reboots and cuts on both.
func TestEveryStepIsStruck(t *testing.T) {
	hosts := []string{controllerHost, "etcd-1", "etcd-2", "etcd-3"}
	plan := harness.Plans()["restore"]
	ever := map[string]bool{}
	for seed := range uint64(50) {
		struck := map[string]bool{}
		for turn := range layouts() {
			for _, s := range chosen(seed, turn, hosts) {
				struck[s.step] = true
				ever[fmt.Sprint(s.step, turn, s.kind == cut || s.kind == longCut)] = true
			}
		}
		if len(struck) != len(plan) {
			t.Fatalf("seed %d: %d of %d steps: %v", seed, len(struck), len(plan), struck)
		}
	}
	if want := 4 * len(plan); len(ever) != want {
		t.Errorf("%d of %d: %v", len(ever), want, ever)
	}
}

// inTheMiddle lists the points at which an agent is in the middle of a task.
func inTheMiddle(t *testing.T, binary string) []string {
	t.Helper()
	out, err := exec.Command(binary, "fault-points", "-o", "json").Output()
	if err != nil {
		t.Fatalf("list the fault points of %s: %v", binary, err)
	}
	var points []fault.Point
	if err := json.Unmarshal(out, &points); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range points {
		where := p.Name[strings.LastIndexByte(p.Name, '/')+1:]
		if strings.HasPrefix(p.Name, "agent/") && (where == "middle" || where == "after") {
			names = append(names, p.Name)
		}
	}
	return names
}

// held is a restore that is held in the middle of a step.
type held struct {
	*site
	strike
	id    string
	point string // where, and on which host; empty if the restore has ended before
	node  string
}

// hold begins a restore and returns when the victim is in the middle of its part of the step. Where it has none, or it is the
// controller's host, the first node has answered or the step is done and that is not journaled.
func (s *site) hold(k strike, middles []string) *held {
	s.t.Helper()
	h := &held{site: s, strike: k}
	point := func(where string) string { return "controller/restore/" + k.step + "/" + where }
	gate := point("after-intent") // other steps may pass an agent's points, too
	s.Arm(gate, controllerHost, "hang once")
	s.Arm(point("before-outcome"), controllerHost, "hang once")
	h.id = s.begin()
	s.WaitFired(gate, controllerHost)
	if k.victim == controllerHost {
		s.Arm(point("middle"), controllerHost, "hang once")
	} else {
		for _, p := range middles {
			s.Arm(p, k.victim, "hang once")
		}
	}
	s.must(s.Faults.Forget(gate, controllerHost))
	s.controller.Await("the restore is in the middle of "+k.step, func() (bool, error) { return h.find() })
	s.disarmBut(h)
	return h
}

// find looks which point has fired.
func (h *held) find() (bool, error) {
	fired, err := filepath.Glob(filepath.Join(h.armed(), "*"+fault.FiredSuffix))
	if err != nil || len(fired) == 0 {
		return false, err
	}
	firings, err := fault.ReadFirings(fired[0])
	if err != nil || len(firings) == 0 {
		return false, err
	}
	h.point, h.node = firings[0].Point, firings[0].Node
	return true, nil
}

// disarmBut takes back what is armed but for where the restore is held.
func (s *site) disarmBut(h *held) {
	s.t.Helper()
	entries, err := os.ReadDir(s.armed())
	s.must(err)
	for _, e := range entries {
		if e.Name() != fault.FileName(h.point, h.node)+fault.FiredSuffix {
			if err := os.Remove(filepath.Join(s.armed(), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.t.Fatal(err)
			}
		}
	}
}

func (h *held) release() {
	h.t.Helper()
	h.must(h.Faults.Forget(h.point, h.node))
}

// suffer makes the victim suffer its fault, lets the restore go on, and brings the host back.
func (h *held) suffer() {
	h.t.Helper()
	victim := h.host(h.victim)
	switch h.kind {
	case reboot:
		victim.Reboot()
		h.release()
	case powerCut:
		victim.PowerOff()
		h.release()
		victim.PowerOn()
	case cut, longCut:
		lasts := time.Second
		if h.kind == longCut {
			lasts = 3*heartbeat + offline + 2*time.Second
		}
		victim.Cut()
		h.release()
		<-time.After(lasts)
		victim.Mend()
	}
}

// begin starts a restore and returns its ID.
func (s *site) begin() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), harness.Patience)
	defer cancel()
	resp, err := requorumv1.NewRestoreServiceClient(s.Conn()).StartRestore(ctx, &requorumv1.StartRestoreRequest{Spec: &requorumv1.RestoreSpec{
		Cluster: harness.Name, Snapshot: base, Quarantine: durationpb.New(time.Hour),
	}})
	s.must(err)
	return resp.GetOperation().GetId()
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}
