package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/fault"
)

// byChance are points that an operation may pass or not: a small file is saved before another node has begun to follow
// it, and then that is cancelled. Simulated nodes meet every fault there.
const byChance = "agent/follow-copy/"

// declared asks the binary for its fault points and returns those that the matrix is about.
func declared(binary string) ([]string, error) {
	out, err := exec.Command(binary, "fault-points", "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("list the fault points of %s: %w", binary, err)
	}
	var points []fault.Point
	if err := json.Unmarshal(out, &points); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range points {
		parts := strings.Split(p.Name, "/")
		if strings.HasPrefix(p.Name, byChance) {
			continue
		}
		if parts[0] == "agent" || parts[0] == "controller" && harness.Plans()[parts[1]] != nil {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// discovery finds which points are passed in which step.
type discovery struct {
	bed     *bed
	points  []string
	plan    map[string]string // by operation: its plan
	forced  map[string]string // by operation: the step that was made to fail
	fetched map[string]bool   // by operation: whether no node had a copy
	found   map[row]map[string]*place
}

// discover runs each plan without a fault, and with a failure of each of its steps.
func discover(b *bed, points []string) map[row][]place {
	d := &discovery{bed: b, points: points, plan: map[string]string{}, forced: map[string]string{}, fetched: map[string]bool{}, found: map[row]map[string]*place{}}
	for _, plan := range []string{"restore", "save"} {
		d.run(plan, "", false)
		for _, step := range forcible(plan) {
			d.run(plan, step, row{plan: plan, step: step}.fetches())
		}
	}
	d.run("restore", "", true)
	places := map[row][]place{}
	for r, found := range d.found {
		for _, name := range points { // in the order of the list
			if p := found[name]; p != nil {
				places[r] = append(places[r], *p)
			}
		}
	}
	return places
}

// run runs an operation in which every point tells that it was passed.
func (d *discovery) run(plan, forced string, fetched bool) {
	b := d.bed
	for _, p := range d.points {
		b.Arm(p, "", "delay 0s")
	}
	if forced != "" {
		b.Arm(point(row{plan: plan, step: forced}, "before-outcome"), "controller", "error once forced")
	}
	if plan == "restore" {
		b.lacking(fetched)
	}
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	id, err := b.begin(ctx, plan)
	if err != nil {
		b.life.Fatal(err)
	}
	op := b.Settle()
	if want := forced != ""; want != (op.GetState() == requorumv1.OperationState_OPERATION_STATE_REVERTED) || op.GetId() != id {
		b.life.Fatalf("a %s in which nothing fails but %q: %v", plan, forced, op)
	}
	d.plan[id], d.forced[id], d.fetched[id] = plan, forced, fetched
	for _, p := range d.points {
		for _, f := range b.firings(p, "") {
			d.note(id, f)
		}
	}
	b.Disarm()
	b.tidy(op)
	b.Do("snapshot", "distribute", baseSnapshot)
}

// note notes where a point was passed.
func (d *discovery) note(id string, f fault.Firing) {
	r, ok := d.rowOf(id, f)
	if !ok || r.fetches() != d.fetched[id] && !r.undo {
		return
	}
	if d.found[r] == nil {
		d.found[r] = map[string]*place{}
	}
	p := d.found[r][f.Point]
	if p == nil {
		p = &place{point: f.Point, nodes: map[string]bool{}, forced: map[string]bool{}}
		d.found[r][f.Point] = p
	}
	p.nodes[f.Node] = true
	if r.undo {
		p.forced[d.forced[id]] = true
	}
}

// rowOf tells to which step a firing belongs: the controller's points say so, those of an agent by the ID of the task.
func (d *discovery) rowOf(id string, f fault.Firing) (row, bool) {
	parts := strings.Split(f.Point, "/")
	if parts[0] == "controller" {
		return row{plan: parts[1], step: parts[2], undo: strings.HasPrefix(parts[3], "undo-")}, parts[1] == d.plan[id]
	}
	task := strings.Split(f.Task, "/")
	if len(task) < 5 || task[0] != id || !slices.Contains([]string{"do", "undo"}, task[2]) {
		return row{}, false
	}
	return row{plan: d.plan[id], step: task[1], undo: task[2] == "undo"}, true
}
