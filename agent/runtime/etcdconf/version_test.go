package etcdconf_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// program writes a script that tells this, with a time of change of its own.
func program(t *testing.T, path, says string, changed time.Time) {
	t.Helper()
	script := "#!/bin/sh\necho \"$@\" >>" + path + ".asked\n" + says + "\n"
	if err := errors.Join(os.WriteFile(path, []byte(script), 0o700), os.Chtimes(path, changed, changed)); err != nil {
		t.Fatal(err)
	}
}

func TestABinaryIsAskedForItsVersionUntilItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd")
	var versions etcdconf.Versions
	get := func() string {
		t.Helper()
		v, err := versions.Get(t.Context(), etcdconf.Binary{Path: path, Env: []string{"V=3.6.7"}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	began := time.Now()
	program(t, path, "echo etcd Version: $V; echo Git SHA: x", began)
	if first, second := get(), get(); first != "3.6.7" || second != "3.6.7" {
		t.Errorf("versions %q and %q", first, second)
	}
	program(t, path, "echo etcd Version: 3.7.0", began.Add(time.Second))
	if v := get(); v != "3.7.0" {
		t.Errorf("version %q of the new binary", v)
	}
	if asked, err := os.ReadFile(path + ".asked"); err != nil || string(asked) != "--version\n--version\n" {
		t.Errorf("it was asked %q, %v", asked, err)
	}
}

func TestWhatIsNotEtcdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etcd")
	var versions etcdconf.Versions
	if _, err := versions.Get(t.Context(), etcdconf.Binary{Path: path}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a binary that is not there: %v", err)
	}
	for i, says := range []string{"echo GNU bash, version 5.2", "exit 3"} {
		program(t, path, says, time.Now().Add(time.Duration(i)*time.Second))
		for range 2 { // the second answer is kept from the first
			if _, err := versions.Get(t.Context(), etcdconf.Binary{Path: path}); !errors.Is(err, etcdconf.ErrNotEtcd) {
				t.Errorf("%s: %v", says, err)
			}
		}
	}
}
