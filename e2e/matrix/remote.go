package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/vault"
	"github.com/requorum/requorum/internal/objectstore/dir"
)

// judgeRemote makes sure that what has a manifest in the remote is whole, that the catalog and the remote agree, and that
// nothing else lies there, but for the marker and what an undo that hung has left and the operation tells.
func (a *attempt) judgeRemote(op *requorumv1.Operation) {
	there, objects := map[string]bool{}, map[string]string{} // names of snapshots; SHA-256 of other files by path
	err := filepath.WalkDir(a.remote, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(a.remote, dir.MarkerFile) {
			return err
		}
		data, err := os.ReadFile(path) // a small database
		sum := sha256.Sum256(data)
		objects[strings.TrimPrefix(path, a.remote+"/")] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		a.note.Fatal(err)
	}
	for key := range objects {
		if name, found := strings.CutSuffix(filepath.Base(key), ".json"); found {
			there[name] = a.wholeInRemote(key, objects)
		}
	}
	told := slices.ContainsFunc(op.GetWarnings(), func(w string) bool { return strings.Contains(w, "may be left in remote "+remoteName) })
	if told {
		delete(there, op.GetSnapshot())
		a.emptyRemote(op.GetSnapshot())
	}
	for key := range objects {
		if !told || !strings.HasPrefix(filepath.Base(key), op.GetSnapshot()+"-") {
			a.note.Errorf("left in the remote: %s", key)
		}
	}
	var all requorumv1.ListSnapshotsResponse
	a.JSON(&all, "snapshot", "ls")
	for _, s := range all.GetSnapshots() {
		if len(s.GetRemotes()) > 0 != there[s.GetName()] {
			a.note.Errorf("the catalog has %s in %v, and that the remote holds it whole is %v", s.GetName(), s.GetRemotes(), there[s.GetName()])
		}
		delete(there, s.GetName())
	}
	for name := range there {
		a.note.Errorf("the remote holds %s, and the catalog does not know it", name)
	}
}

// emptyRemote removes what is left of a snapshot, as a person does who was told.
func (a *attempt) emptyRemote(name string) {
	for _, pattern := range []string{name + ".json", name + "-*"} {
		left, err := filepath.Glob(filepath.Join(a.remote, "*", pattern))
		for _, path := range left {
			err = errors.Join(err, os.Remove(path))
		}
		if err != nil {
			a.note.Fatal(err)
		}
	}
}

// wholeInRemote tells whether what a manifest describes is as it says, and takes all of it out of objects.
func (a *attempt) wholeInRemote(key string, objects map[string]string) bool {
	data, err := os.ReadFile(filepath.Join(a.remote, key))
	if err != nil {
		a.note.Fatal(err)
	}
	delete(objects, key)
	m, err := vault.DecodeManifest(data)
	if err != nil {
		a.note.Errorf("%s: %v", key, err)
		return false
	}
	stored := []*requorumv1.StoredObject{m.GetStored()}
	for _, b := range m.GetBundles() {
		stored = append(stored, b.GetStored())
	}
	whole := len(m.GetBundles()) == 0 || len(m.GetBundles()) == len(a.Nodes)
	for _, o := range stored {
		whole = whole && objects[o.GetKey()] == o.GetSha256()
		delete(objects, o.GetKey())
	}
	return whole
}
