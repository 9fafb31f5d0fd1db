package main

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Kinds of faults, in the order of the table's columns.
const (
	killController = "controller"
	killAgent      = "agent"
	killEtcd       = "etcd"
	killAll        = "all"
	cutNetwork     = "network"
	fillDisk       = "disk"
	hangTask       = "hang"
	deliverTwice   = "twice"
	loseResult     = "lost"
)

var kinds = []string{killController, killAgent, killEtcd, killAll, cutNetwork, fillDisk, hangTask, deliverTwice, loseResult}

// column says what happens in a kind of fault.
var column = map[string]string{
	killController: "SIGKILL the controller", killAgent: "SIGKILL a node's agent", killEtcd: "SIGKILL a node's etcd", killAll: "SIGKILL everything",
	cutNetwork: "a node is cut off the network, and connected again", fillDisk: "a node's disk is full for a while",
	hangTask: "a task hangs", deliverTwice: "a task is delivered twice", loseResult: "a result is lost, and the session with it",
}

// cell is one run: an operation in which one thing goes wrong at one place.
type cell struct {
	row
	kind   string
	point  string // where the operation is when it happens
	at     string // node at which the point is armed; empty for whichever comes there first
	victim string // node that it happens to
	forced string // step that is made to fail so that the row's step is undone
	long   bool   // it lasts longer than a node is waited for
}

// String is the form that parseCell reads.
func (c cell) String() string {
	lasts := "brief"
	if c.long {
		lasts = "long"
	}
	return strings.Join([]string{c.row.String(), c.kind, c.point, c.at, c.victim, c.forced, lasts}, ",")
}

func parseCell(s string) (cell, error) {
	f := strings.Split(s, ",")
	if len(f) != 7 {
		return cell{}, fmt.Errorf("cell %q: want seven fields, as the table gives them", s)
	}
	words := strings.Fields(f[0])
	c := cell{row: row{plan: words[0], step: words[len(words)-1], undo: len(words) == 3}, kind: f[1], point: f[2], at: f[3], victim: f[4], forced: f[5], long: f[6] == "long"}
	if column[c.kind] == "" || len(words) < 2 {
		return cell{}, fmt.Errorf("cell %q: there is no such step or fault", s)
	}
	return c, nil
}

// fits tells whether a kind of fault can happen at a place.
func fits(kind string, p place) bool {
	switch where := p.where(); kind {
	case deliverTwice:
		return where == "deliver"
	case loseResult:
		return where == "report"
	case hangTask:
		return !p.inController() && where != "deliver" && where != "report"
	default:
		return where != "deliver" && where != "report"
	}
}

// choose takes one cell for every row and kind of fault, the same for the same seed.
func choose(seed uint64, places map[row][]place, nodes []string, possible func(kind string) bool) []cell {
	var cells []cell
	for i, r := range rows() {
		for j, kind := range kinds {
			all := product(r, kind, places[r], nodes)
			if len(all) == 0 || !possible(kind) {
				continue
			}
			victim := nodes[(i+j+int(seed%uint64(len(nodes))))%len(nodes)] // each in turn
			mine := slices.DeleteFunc(slices.Clone(all), func(c cell) bool { return c.victim != victim && c.victim != "" })
			if len(mine) > 0 {
				all = mine
			}
			cells = append(cells, all[random(seed, r, kind).IntN(len(all))])
		}
	}
	return cells
}

// everything is every cell of every row.
func everything(places map[row][]place, nodes []string, possible func(kind string) bool) []cell {
	var cells []cell
	for _, r := range rows() {
		for _, kind := range kinds {
			if possible(kind) {
				cells = append(cells, product(r, kind, places[r], nodes)...)
			}
		}
	}
	return cells
}

func random(seed uint64, r row, kind string) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, r, kind)
	return rand.New(rand.NewPCG(seed, h.Sum64())) //nolint:gosec // the same each time
}

// product is every cell of a row and a kind of fault.
func product(r row, kind string, places []place, nodes []string) []cell {
	var cells []cell
	for _, p := range places {
		if !fits(kind, p) {
			continue
		}
		for _, at := range armedAt(kind, p, nodes) {
			for _, victim := range victims(kind, nodes) {
				for _, forced := range forcedBy(r, p) {
					for _, long := range lasting(kind) {
						cells = append(cells, cell{row: r, kind: kind, point: p.point, at: at, victim: victim, forced: forced, long: long})
					}
				}
			}
		}
	}
	return cells
}

// armedAt lists the nodes at which a point is armed: each, if all of them pass it, otherwise whichever does.
func armedAt(kind string, p place, nodes []string) []string {
	switch {
	case p.inController():
		return []string{"controller"}
	case len(p.nodes) < len(nodes):
		return []string{""}
	case kind == hangTask || kind == deliverTwice || kind == loseResult:
		return nodes
	default:
		return nodes[:1] // the victim changes
	}
}

func victims(kind string, nodes []string) []string {
	switch kind {
	case killAgent, killEtcd, cutNetwork:
		return nodes
	default:
		return []string{""}
	}
}

func forcedBy(r row, p place) []string {
	if !r.undo {
		return []string{""}
	}
	return slices.Sorted(maps.Keys(p.forced))
}

// harmless tells whether the operation has to succeed in spite of the fault.
func (c cell) harmless() bool {
	return !c.undo && (c.kind == killController || c.kind == deliverTwice || c.kind == loseResult)
}

// lasting tells how long a kind of fault may last: always longer, or also shorter than a node is waited for.
func lasting(kind string) []bool {
	switch kind {
	case killAgent, cutNetwork, fillDisk:
		return []bool{false, true}
	case hangTask:
		return []bool{true}
	default:
		return []bool{false}
	}
}
