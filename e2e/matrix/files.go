package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/e2e/harness"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const fileSet = "pki"

// Files of a node besides etcd's: what they hold when the snapshot is taken that everything is restored from, and when an
// operation begins.
var (
	filesThen = map[string]string{"ca.crt": "then", "lost.crt": "then"}
	filesNow  = map[string]string{"ca.crt": "now", "later.crt": "now"}
)

func (b *bed) filesOf(node string) string { return filepath.Join(b.files, node, fileSet) }

// bundle is where a node keeps its files of the snapshot that everything is restored from.
func (b *bed) bundle(node string) string {
	return filepath.Join(b.Vault(node), baseSnapshot+".files")
}

// writeFiles makes the files of every node what is given.
func (b *bed) writeFiles(content map[string]string) {
	for _, node := range b.NodeNames() {
		dir := b.filesOf(node)
		err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700))
		for name, text := range content {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
		if err != nil {
			b.hears.Fatal(err)
		}
	}
}

// keepBundles remembers what restoreBundles puts back where a cell has taken it away.
func (b *bed) keepBundles() {
	b.bundles = map[string][]byte{}
	for _, node := range b.NodeNames() {
		data, err := os.ReadFile(b.bundle(node))
		if err != nil {
			b.hears.Fatal(err)
		}
		b.bundles[b.bundle(node)] = data
	}
}

func (b *bed) restoreBundles() {
	for path, data := range b.bundles {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.hears.Fatal(err)
		}
	}
}

// judgeFiles makes sure that the files of every node are those of the snapshot, with what they have replaced beside them,
// or those of before, with nothing beside them.
func (a *attempt) judgeFiles(op *requorumv1.Operation, restored bool) {
	want := maps.Clone(filesNow)
	if restored {
		maps.Copy(want, filesThen)
		want[".requorum-quarantine-"+op.GetId()+"-ca.crt"] = "now"
	}
	for _, node := range a.NodeNames() {
		entries, err := os.ReadDir(a.filesOf(node))
		if err != nil {
			a.note.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(a.filesOf(node), e.Name()))
			if err != nil {
				a.note.Fatal(err)
			}
			got[e.Name()] = string(data)
		}
		if !maps.Equal(got, want) {
			a.note.Errorf("the files of %s after %s are %v, want %v", node, harness.Ending(op), got, want)
		}
	}
}
