package main

import (
	"fmt"
	"strings"

	"github.com/requorum/requorum/e2e/harness"
)

// row is a step of a plan, or its undo.
type row struct {
	plan string // "restore" or "save"
	step string
	undo bool
}

func (r row) String() string {
	if r.undo {
		return r.plan + " undo " + r.step
	}
	return r.plan + " " + r.step
}

// fetches tells whether no node is to have a copy when the restore begins.
func (r row) fetches() bool { return r.plan == "restore" && r.step == "fetch" }

// rows lists every step, then every undo, of both plans.
func rows() []row {
	var all []row
	for _, name := range []string{"restore", "save"} {
		plan := harness.Plans()[name]
		for _, s := range plan {
			all = append(all, row{plan: name, step: s.Name})
		}
		for _, s := range plan {
			if s.Undo != nil {
				all = append(all, row{plan: name, step: s.Name, undo: true})
			}
		}
	}
	return all
}

// forcible are the steps of a plan that can be made to fail so that what was done is undone.
func forcible(name string) []string {
	var steps []string
	undoable := false
	for _, s := range harness.Plans()[name] {
		if s.Pivot {
			break
		}
		if undoable = undoable || s.Undo != nil; undoable {
			steps = append(steps, s.Name)
		}
	}
	return steps
}

// place is a fault point where it was passed in a run without other faults.
type place struct {
	point  string
	nodes  map[string]bool // which passed it; only "controller" for the controller's
	forced map[string]bool // in an undo: after which steps had failed
}

func (p place) inController() bool { return strings.HasPrefix(p.point, "controller/") }

// where is the last part of the point's name: "before", "middle" and so on.
func (p place) where() string { return p.point[strings.LastIndexByte(p.point, '/')+1:] }

func point(r row, where string) string {
	if r.undo {
		where = "undo-" + where
	}
	return fmt.Sprintf("controller/%s/%s/%s", r.plan, r.step, where)
}
