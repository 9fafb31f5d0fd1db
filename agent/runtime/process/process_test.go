package process_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/process"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	runtimetest.Main()
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, o process.Options) *process.Runtime {
	t.Helper()
	r, err := process.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// stopAtEnd stops what a test leaves running.
func stopAtEnd(t *testing.T, o process.Options) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := open(t, o).Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func etcd(t *testing.T) process.Options {
	e := runtimetest.NewEtcd(t)
	o := process.Options{Command: e.Command, Env: e.Env, Dir: filepath.Join(t.TempDir(), "state")}
	stopAtEnd(t, o)
	return o
}

func TestRuntime(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		o := etcd(t)
		return runtimetest.Subject{Open: func(t *testing.T) runtime.Runtime { return open(t, o) }}
	})
}

var _ = os.Args
