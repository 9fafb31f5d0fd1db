//go:build faultinject

package simulated_test

import (
	"context"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	nodefiles "github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/task"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Files of a node besides etcd's, real ones: by what they hold when the first snapshot is taken, and when the operation
// begins.
const fileSet = "pki"

var (
	filesThen = map[string]string{"pki/ca.crt": "then", "pki/ca.key": "then", "pki/lost.crt": "then", "token": "same"}
	filesNow  = map[string]string{"pki/ca.crt": "now", "pki/ca.key": "now", "pki/later.crt": "now", "token": "same"}
)

func (n *node) dir(parts ...string) string {
	return filepath.Join(append([]string{n.w.dir, n.name}, parts...)...)
}

// keeper keeps the files of a node, as its agent's does.
func (n *node) keeper() *nodefiles.Keeper {
	return &nodefiles.Keeper{
		Sets: nodefiles.Sets{fileSet: {n.dir("etc", "pki"), n.dir("etc", "token")}}, Dir: n.dir("snapshots"), Records: n.dir("records"),
	}
}

func (w *world) writeFiles(content map[string]string) {
	for _, n := range w.nodes {
		w.must(os.RemoveAll(n.dir("etc")))
		for _, dir := range []string{n.dir("etc", "pki"), n.dir("snapshots")} {
			w.must(os.MkdirAll(dir, 0o700))
		}
		for path, text := range content {
			w.must(os.WriteFile(n.dir("etc", path), []byte(text+" on "+n.name), 0o600))
		}
	}
}

// loseFiles takes a node's files of the first snapshot away.
func (n *node) loseFiles() { n.w.must(n.keeper().Drop(goodName)) }

// bundles keeps the files of a node as one process does. What it does takes no simulated time, so that a process that is
// killed meanwhile is one that was killed right after.
type bundles struct {
	*mounted
	keeper *nodefiles.Keeper
}

var _ task.Bundles = bundles{}

// writes fails where nothing can be written.
func (b bundles) writes() error {
	return b.access(func(d *disk) error {
		if d.full {
			return &fs.PathError{Op: "write", Path: b.keeper.Dir, Err: syscall.ENOSPC}
		}
		return nil
	})
}

func (b bundles) reads() error { return b.access(func(*disk) error { return nil }) }

func (b bundles) Names() []string { return b.keeper.Names() }

func (b bundles) Pack(ctx context.Context, name string, sets []string, recipients ...string) (*requorumv1.Bundle, error) {
	if err := b.writes(); err != nil {
		return nil, err
	}
	return b.keeper.Pack(ctx, name, sets, recipients...)
}

func (b bundles) Open(name string, of *requorumv1.Bundle, identity string) ([]byte, error) {
	if err := b.reads(); err != nil {
		return nil, err
	}
	return b.keeper.Open(name, of, identity)
}

func (b bundles) PutSealed(name string, of *requorumv1.Bundle, data []byte) error {
	if err := b.writes(); err != nil {
		return err
	}
	return b.keeper.PutSealed(name, of, data)
}

func (b bundles) PutOpened(id string, of *requorumv1.Bundle, data []byte) error {
	if err := b.writes(); err != nil {
		return err
	}
	return b.keeper.PutOpened(id, of, data)
}

func (b bundles) Old(id string) ([]string, error) {
	if err := b.reads(); err != nil {
		return nil, err
	}
	return b.keeper.Old(id)
}

func (b bundles) RemoveOld(ctx context.Context, id string) error {
	if err := b.reads(); err != nil {
		return err
	}
	return b.keeper.RemoveOld(ctx, id)
}

func (b bundles) KeepOpened(id string) error {
	if err := b.reads(); err != nil {
		return err
	}
	return b.keeper.KeepOpened(id)
}

func (b bundles) DropOpened(id string) error {
	if err := b.reads(); err != nil {
		return err
	}
	return b.keeper.DropOpened(id)
}

func (b bundles) Read(name string, of *requorumv1.Bundle) ([]byte, error) {
	if err := b.reads(); err != nil {
		return nil, err
	}
	return b.keeper.Read(name, of)
}

func (b bundles) Put(name string, of *requorumv1.Bundle, data []byte) error {
	if err := b.writes(); err != nil {
		return err
	}
	return b.keeper.Put(name, of, data)
}

func (b bundles) Drop(name string) error {
	if err := b.reads(); err != nil {
		return err
	}
	return b.keeper.Drop(name)
}

func (b bundles) Compare(ctx context.Context, name string, of *requorumv1.Bundle) ([]*requorumv1.PlannedFile, error) {
	if err := b.reads(); err != nil {
		return nil, err
	}
	return b.keeper.Compare(ctx, name, of)
}

func (b bundles) CompareData(ctx context.Context, name string, of *requorumv1.Bundle, data []byte) ([]*requorumv1.PlannedFile, error) {
	if err := b.reads(); err != nil {
		return nil, err
	}
	return b.keeper.CompareData(ctx, name, of, data)
}

func (b bundles) Restore(ctx context.Context, id, name string, of *requorumv1.Bundle) error {
	if err := b.writes(); err != nil {
		return err
	}
	return b.keeper.Restore(ctx, id, name, of)
}

func (b bundles) Undo(ctx context.Context, id string) error {
	if err := b.reads(); err != nil {
		return err
	}
	return b.keeper.Undo(ctx, id)
}

// judgeFiles makes sure that the files of a node are those of the snapshot, with what they have replaced beside them, or
// those of before, with nothing beside them.
func (w *world) judgeFiles(n *node, rec *journalv1.OperationRecord, snaps []*requorumv1.Snapshot) {
	want, id := maps.Clone(filesNow), rec.GetOperation().GetId()
	if restored(rec) && rec.GetRestore().GetSpec().GetFiles() == requorumv1.FilesMode_FILES_MODE_RESTORE {
		maps.Copy(want, filesThen)
		for _, replaced := range []string{"ca.crt", "ca.key"} {
			want["pki/.requorum-quarantine-"+id+"-"+replaced] = "now"
		}
	}
	got := map[string]string{}
	w.must(filepath.WalkDir(n.dir("etc"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, n.dir("etc")+"/")] = strings.TrimSuffix(string(data), " on "+n.name)
		return err
	}))
	if !maps.Equal(got, want) {
		w.wrong("%s: its files are %v, want %v", n.name, got, want)
	}
	w.judgeBundles(n, rec, snaps)
}

// judgeBundles compares what lies beside a node's copies with the catalog.
func (w *world) judgeBundles(n *node, rec *journalv1.OperationRecord, snaps []*requorumv1.Snapshot) {
	there, err := os.ReadDir(n.dir("snapshots"))
	w.must(err)
	for _, e := range there {
		name := strings.TrimSuffix(e.Name(), ".files")
		at := slices.IndexFunc(snaps, func(s *requorumv1.Snapshot) bool { return s.GetName() == name })
		switch {
		case rebuiltInPart(rec):
		case at < 0, snaps[at].GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED:
			w.wrong("%s: %s is left beside its copies", n.name, e.Name())
		}
	}
	if rec.GetOperation().GetKind() != requorumv1.OperationKind_OPERATION_KIND_SAVE {
		return // nodes get back what they have lost when a restore needs it
	}
	for _, s := range snaps {
		if s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY || s.GetOperationId() != rec.GetOperation().GetId() {
			continue
		}
		for _, b := range s.GetManifest().GetBundles() {
			if _, err := n.keeper().Read(s.GetName(), b); b.GetNode() == n.name && err != nil {
				w.wrong("%s: the snapshot %s is READY without its files: %v", n.name, s.GetName(), err)
			}
		}
	}
}
