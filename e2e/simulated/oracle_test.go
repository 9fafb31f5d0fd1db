//go:build faultinject

package simulated_test

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/requorum/requorum/agent/remote"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// judge looks at everything that is left when an operation has ended, and notes what is wrong. Agents and
// controller run while it looks, and nothing is under way.
func (w *world) judge(op *requorumv1.Operation) {
	w.mu.Lock()
	w.noWrites = true
	k := w.controller
	w.mu.Unlock()
	rec := new(journalv1.OperationRecord)
	cluster := new(journalv1.ClusterRecord)
	w.must(opened{k.memory, newProcess("judge")}.View(func(t store.Tx) error {
		if err := store.Load(t, store.Operations, op.GetId(), rec); err != nil {
			return err
		}
		return store.Load(t, store.Clusters, clusterName, cluster)
	}))
	snaps, err := k.catalog.Snapshots(clusterName)
	w.must(err)
	listed, err := remote.List(context.Background(), w.looking(), "etcd/"+clusterName, "")
	w.must(err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judgeEnd(rec)
	w.judgeData(rec)
	w.judgeOldData(rec)
	w.judgeCopies(rec, snaps)
	w.judgeRemote(rec.GetOperation(), snaps, listed)
	for _, n := range w.nodes {
		w.judgeNode(n, rec, cluster)
		w.judgeFiles(n, rec, snaps)
	}
}

func (w *world) judgeEnd(rec *journalv1.OperationRecord) {
	switch op := rec.GetOperation(); op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_SUCCEEDED, requorumv1.OperationState_OPERATION_STATE_REVERTED, requorumv1.OperationState_OPERATION_STATE_REFUSED:
		if op.GetAttention() != "" {
			w.wrong("the operation has ended and still asks for attention: %s", op.GetAttention())
		}
	default:
		w.wrong("the operation is %s: %s %v", op.GetState(), op.GetAttention(), op.GetFailure())
	}
}

// restored tells whether the operation has replaced the cluster's data.
func restored(rec *journalv1.OperationRecord) bool {
	op := rec.GetOperation()
	return op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_RESTORE && op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
}

// judgeData makes sure that every member serves, and what: the snapshot and what was acknowledged since, or
// everything that was acknowledged ever.
func (w *world) judgeData(rec *journalv1.OperationRecord) {
	want := w.acked[w.first.cluster]
	if restored(rec) {
		id := rec.GetRestore().GetClusterId()
		if want = w.acked[id]; want == nil {
			want = w.good
		} else if base := want.base(); !base.same(w.good) {
			w.wrong("the restored cluster began with other data than the snapshot's")
		}
	}
	for id := range w.acked {
		if id != w.first.cluster && (!restored(rec) || id != rec.GetRestore().GetClusterId()) {
			w.wrong("a client was told that a write is safe in cluster %s, which is gone", id)
		}
	}
	for _, n := range w.nodes {
		members, quorum := n.group()
		switch {
		case !quorum || len(members) != size:
			w.wrong("%s: its member does not serve with all others: running %v, wanted %v, %d members", n.name, n.etcd.running, n.etcd.wanted, len(members))
			continue
		case restored(rec) != (n.disk.live.cluster != w.first.cluster):
			w.wrong("%s: it serves cluster %s", n.name, n.disk.live.cluster)
		case n.disk.live.db.corrupt():
			w.wrong("%s: clients may not write: %v", n.name, n.disk.live.db.alarms)
		}
		if !n.disk.live.db.same(want) {
			w.wrong("%s: it serves %v, want %v", n.name, n.disk.live.db.keys, want.keys)
		}
		if !n.etcd.controlPlane {
			w.wrong("%s: its control plane does not run", n.name)
		}
	}
}

// base is the data that a restored cluster began with.
func (d *database) base() *database {
	at := d
	for at.before != nil && at.before.cluster == d.cluster {
		at = at.before
	}
	return at
}

// judgeOldData makes sure that what a restore has replaced is where the operation says, whole.
func (w *world) judgeOldData(rec *journalv1.OperationRecord) {
	id, op := rec.GetOperation().GetId(), rec.GetOperation()
	if !restored(rec) {
		if len(op.GetQuarantines()) > 0 {
			w.wrong("the operation names old data: %v", op.GetQuarantines())
		}
		return
	}
	w.judgeSafety(rec)
	whole := false
	for _, n := range w.nodes {
		q := n.disk.quarantine[id]
		if q == nil || q.data == nil || !q.marked {
			w.wrong("%s: its old data is not in quarantine", n.name)
			continue
		}
		whole = whole || q.data.db.follows(w.acked[w.first.cluster])
		if !slices.ContainsFunc(op.GetQuarantines(), func(k *requorumv1.Quarantine) bool {
			return k.GetNode() == n.name && len(k.GetPaths()) == 1 && (k.GetExpires() != nil || keptForever(rec))
		}) {
			w.wrong("%s: the operation does not name its old data: %v", n.name, op.GetQuarantines())
		}
	}
	if !whole {
		w.wrong("no old data holds every acknowledged write")
	}
}

// judgeSafety makes sure that the safety snapshot holds all that the old cluster was told to keep, unless the operation
// says that it does not.
func (w *world) judgeSafety(rec *journalv1.OperationRecord) {
	name := rec.GetOperation().GetSafetySnapshot()
	if keptForever(rec) {
		return
	}
	for _, n := range w.nodes {
		if content := n.disk.copies[name]; content != nil {
			if db, err := w.files.decode(content); err != nil || !db.same(w.acked[w.first.cluster]) {
				w.wrong("the safety snapshot %s lacks what clients were told is safe (%v)", name, err)
			}
			return
		}
	}
	w.wrong("no node has the safety snapshot %q", name)
}

// keptForever tells whether the operation says that the old data alone holds some writes, and is kept for that.
func keptForever(rec *journalv1.OperationRecord) bool {
	return slices.ContainsFunc(rec.GetOperation().GetWarnings(), func(w string) bool {
		return strings.HasSuffix(w, "the old data directories are kept until a person removes them")
	})
}

// judgeCopies compares the catalog with the disks.
func (w *world) judgeCopies(rec *journalv1.OperationRecord, snaps []*requorumv1.Snapshot) {
	listed := map[string]*requorumv1.Snapshot{}
	for _, s := range snaps {
		listed[s.GetName()] = s
		w.judgeEntry(rec, s)
	}
	for _, n := range w.nodes {
		for name, content := range n.disk.copies {
			if name == importFile {
				continue
			}
			_, sha := sums(content)
			s := listed[name]
			switch {
			case s == nil && leftKnowingly(rec, name), rebuiltInPart(rec):
			case n.disk.manifests[name].GetSha256() != sha:
				w.wrong("%s: copy %s has no manifest that fits", n.name, name)
			case s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING: // judgeEntry has seen it
			case s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY:
				w.wrong("%s: it keeps %s, which the catalog has as %s", n.name, name, s.GetState())
			case !slices.ContainsFunc(s.GetCopies(), func(c *requorumv1.Copy) bool { return c.GetNode() == n.name && c.GetSha256() == sha }) && !w.stale(rec, s):
				w.wrong("%s: it keeps %s, and the catalog does not say so", n.name, name)
			}
		}
	}
}

// rebuiltInPart tells whether a catalog was to be rebuilt and was not, or says of which nodes it knows nothing.
func rebuiltInPart(rec *journalv1.OperationRecord) bool {
	op := rec.GetOperation()
	return op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_REBUILD &&
		(op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED || len(op.GetWarnings()) > 0)
}

// leftKnowingly tells whether a copy is what a restore has left of a snapshot that it wanted to take past the pivot, of
// which a failure is a warning, on a node that could not be told to remove it.
func leftKnowingly(rec *journalv1.OperationRecord, name string) bool {
	planned := []string{rec.GetRestore().GetLate().GetName(), rec.GetRestore().GetAfter().GetManifest().GetName()}
	return len(rec.GetOperation().GetWarnings()) > 0 && slices.Contains(planned, name)
}

// judgeEntry makes sure that a snapshot is what the catalog says of it. Only a safety snapshot is on one node.
func (w *world) judgeEntry(rec *journalv1.OperationRecord, s *requorumv1.Snapshot) {
	switch s.GetState() {
	case requorumv1.SnapshotState_SNAPSHOT_STATE_READY:
	case requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED:
		return
	case requorumv1.SnapshotState_SNAPSHOT_STATE_DELETING:
		warned := func(text string) bool { return strings.Contains(text, s.GetName()+" could not be removed") }
		if !slices.ContainsFunc(rec.GetOperation().GetWarnings(), warned) {
			w.wrong("%s was not removed, and nobody says so", s.GetName())
		}
		return
	default:
		w.wrong("the catalog has %s as %s, and nothing is under way", s.GetName(), s.GetState())
		return
	}
	w.judgeDrill(rec.GetOperation(), s)
	good := 0
	for _, c := range s.GetCopies() {
		content := w.node(c.GetNode()).disk.copies[s.GetName()]
		_, sha := sums(content)
		is := content != nil && sha == s.GetManifest().GetSha256()
		if said := c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD; said != is && !w.stale(rec, s) {
			w.wrong("%s: the catalog has its copy of %s as %s, and the disk says %v", c.GetNode(), s.GetName(), c.GetState(), is)
		}
		if is {
			good++
		}
	}
	madeHere := s.GetOperationId() == rec.GetOperation().GetId() && s.GetOperationId() != ""
	alone := s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY
	elsewhere := slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool { return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD }) // judgeRemote has seen it
	if good == 0 && !elsewhere || madeHere && !alone && good != size {
		w.wrong("%s is READY with %d good copies", s.GetName(), good)
	}
}

// judgeDrill makes sure that the catalog says what came of a drill.
func (w *world) judgeDrill(op *requorumv1.Operation, s *requorumv1.Snapshot) {
	if op.GetKind() != requorumv1.OperationKind_OPERATION_KIND_VERIFY || s.GetName() != goodName {
		return
	}
	proved := s.GetVerified().GetOperationId() == op.GetId()
	if succeeded := op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED; succeeded && !proved {
		w.wrong("the drill has succeeded, and the catalog says %v", s.GetVerified())
	}
	if s.GetFailedVerification() != nil {
		w.wrong("the catalog says that the snapshot cannot be restored: %v", s.GetFailedVerification())
	}
}

// stale tells whether nobody may have looked at a snapshot's copies since the test took some away, and since nodes
// that lacked one were given it by an operation that was then put back: it leaves whole copies where they are.
func (w *world) stale(rec *journalv1.OperationRecord, s *requorumv1.Snapshot) bool {
	return s.GetName() == goodName && rec.GetOperation().GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
}

// judgeNode looks at one node's disk and its agent's journal.
func (w *world) judgeNode(n *node, rec *journalv1.OperationRecord, cluster *journalv1.ClusterRecord) {
	id := rec.GetOperation().GetId()
	if len(n.disk.staging) > 0 {
		w.wrong("%s: staged data is left: %v", n.name, slices.Collect(maps.Keys(n.disk.staging)))
	}
	for name := range n.disk.parts {
		if !leftKnowingly(rec, name) {
			w.wrong("%s: the partial file of %s is left", n.name, name)
		}
	}
	if !restored(rec) && len(n.disk.quarantine) > 0 {
		w.wrong("%s: old data is in quarantine although nothing was restored", n.name)
	}
	w.judgeJournal(n, id, restored(rec), cluster)
}

func (w *world) judgeJournal(n *node, id string, restored bool, cluster *journalv1.ClusterRecord) {
	j := n.journal
	state, err := j.State()
	w.must(err)
	live, err := j.Restored()
	w.must(err)
	quarantines, err := j.Quarantines()
	w.must(err)
	finished, err := j.Finished(id)
	w.must(err)
	switch {
	case state.GetFenced():
		w.wrong("%s: it is fenced", n.name)
	case state.GetGeneration() != cluster.GetGeneration():
		w.wrong("%s: its generation is %d, the cluster's %d", n.name, state.GetGeneration(), cluster.GetGeneration())
	case live != nil:
		w.wrong("%s: its journal has restore %s as under way", n.name, live.RestoreID)
	case finished != restored || len(quarantines) > 0 != restored:
		w.wrong("%s: its journal says finished %v and has %d quarantines", n.name, finished, len(quarantines))
	}
}
