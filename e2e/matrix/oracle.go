package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// safetyIsComplete says that the safety snapshot of a restore that has finished has every write in it that the old
// cluster acknowledged, up to its stop.
const safetyIsComplete = true

// world is what the members hold.
type world struct {
	harness.World               // without what the writer wrote
	written       harness.State // that
}

// look waits until the cluster serves on every node and tells what it holds.
func (b *bed) look() world {
	w := world{World: b.Look()}
	w.State, w.written = split(w.State)
	return w
}

// judge makes sure that the operation has ended one way or the other, and that nothing is in between.
func (a *attempt) judge(op *requorumv1.Operation, acked []write) {
	finished := op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
	a.judgeEnd(op, finished)
	now := a.look()
	want := a.before
	if finished && a.cell.plan == "restore" {
		want = a.base
	}
	a.JudgeData(op, a.before.World, now.World, want.World)
	a.judgeWrites(op, now, acked)
	a.judgeDisks(op, finished)
	a.judgeCatalog(op)
	a.judgeRemote(op)
	a.judgeFiles(op, finished && a.cell.plan == "restore")
	a.JudgeNodes()
	if a.cell.plan == "restore" {
		a.Do("snapshot", "distribute", baseSnapshot)
	}
	a.tidy(op)
}

func (a *attempt) judgeEnd(op *requorumv1.Operation, finished bool) {
	a.JudgeEnd(op)
	refused := op.GetState() == requorumv1.OperationState_OPERATION_STATE_REFUSED // an agent may take longer to come back than a check waits
	if !finished && !refused && a.cell.harmless() {
		a.note.Errorf("that is no reason to give up: %s", harness.Briefly(op))
	}
	if finished && a.cell.forced != "" {
		a.note.Errorf("step %s failed, and the operation finished all the same: %s", a.cell.forced, harness.Briefly(op))
	}
}

// judgeWrites looks for every write that was acknowledged.
func (a *attempt) judgeWrites(op *requorumv1.Operation, now world, acked []write) {
	var safe map[string]string
	complete := safetyIsComplete && now.Cluster != a.before.Cluster && !a.keepsOld(op)
	if complete {
		safe = a.contents(op.GetSafetySnapshot())
	}
	lost := map[string][]string{}
	for _, w := range acked {
		switch {
		case w.cluster == now.Cluster:
			if now.written[w.key].Value != w.value {
				lost["the cluster"] = append(lost["the cluster"], w.key)
			}
		case w.cluster != a.before.Cluster:
			lost["a cluster that was given up again"] = append(lost["a cluster that was given up again"], w.key)
		case complete && safe[w.key] != w.value:
			lost["the safety snapshot"] = append(lost["the safety snapshot"], w.key)
		}
	}
	for where, keys := range lost {
		a.note.Errorf("%d of %d acknowledged writes are not in %s: %v", len(keys), len(acked), where, keys[:min(3, len(keys))])
	}
}

// keepsOld tells whether the safety snapshot could not be completed: then people are told so, and the old data, which has
// those writes, is kept until a person removes it.
func (a *attempt) keepsOld(op *requorumv1.Operation) bool {
	told := slices.ContainsFunc(op.GetWarnings(), func(w string) bool { return strings.Contains(w, "old data directories are kept") })
	for _, q := range op.GetQuarantines() {
		if told == (q.GetExpires() != nil) {
			a.note.Errorf("that old data is kept for good is told: %v; on %s it expires: %v", told, q.GetNode(), q.GetExpires().AsTime())
		}
	}
	return told
}

// judgeDisks makes sure that old data is where the operation says, and that nothing else is left.
func (a *attempt) judgeDisks(op *requorumv1.Operation, finished bool) {
	if kept, want := len(op.GetQuarantines()) > 0, finished && a.cell.plan == "restore"; kept != want {
		a.note.Errorf("after %s it keeps old data: %v", harness.Ending(op), op.GetQuarantines())
	}
	for _, q := range op.GetQuarantines() {
		for _, path := range q.GetPaths() {
			if _, err := os.Stat(path); err != nil {
				a.note.Errorf("old data of %s: %v", q.GetNode(), err)
			}
		}
	}
	for _, left := range a.LeftBehind() {
		if a.cell.kind == fillDisk && strings.Contains(left, "--data-dir=") {
			continue // an etcd that was started while its record could not be written: the agent knows it by its environment
		}
		a.note.Errorf("left behind: %s", left)
	}
}

// judgeCatalog compares what the catalog says of copies with what is on the disks.
func (a *attempt) judgeCatalog(op *requorumv1.Operation) {
	var all requorumv1.ListSnapshotsResponse
	a.JSON(&all, "snapshot", "ls")
	for _, s := range all.GetSnapshots() {
		if s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
			continue
		}
		for _, c := range s.GetCopies() {
			if c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD || s.GetName() == baseSnapshot {
				continue // one copy of that is taken away each time; distribute looks at it
			}
			if err := same(a.Copy(c.GetNode(), s.GetName()), s.GetManifest(), s.GetOperationId() == op.GetId()); err != nil {
				a.note.Errorf("the catalog says that %s has a good copy of %s: %v", c.GetNode(), s.GetName(), err)
			}
		}
	}
}

// same makes sure that a file is the one of the manifest: of that size and, if whole, with that content.
func same(path string, m *requorumv1.Manifest, whole bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != m.GetSize() {
		return fmt.Errorf("it has %d bytes, not %d", info.Size(), m.GetSize())
	}
	if !whole {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != m.GetSha256() {
		return fmt.Errorf("its SHA-256 is %s, not %s", got, m.GetSha256())
	}
	return nil
}

// tidy removes what a cell leaves by right, so that the next one begins as it did.
func (b *bed) tidy(op *requorumv1.Operation) {
	for _, q := range op.GetQuarantines() {
		for _, path := range q.GetPaths() {
			if err := os.RemoveAll(path); err != nil {
				b.hears.Fatal(err)
			}
		}
	}
	b.restoreBundles()
	b.writeFiles(filesNow)
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	if _, err := b.Client(b.Nodes[0].Name).Delete(ctx, writerPrefix, clientv3.WithPrefix()); err != nil {
		b.hears.Fatal(err)
	}
}
