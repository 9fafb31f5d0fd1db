package docker_test

import (
	"testing"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
)

func TestRuntime(t *testing.T) {
	newBench(t)
	runtimetest.Run(t, func(t *testing.T) runtimetest.Subject {
		b := newBench(t)
		name := b.createEtcd(t.TempDir(), always)
		return runtimetest.Subject{Open: func(*testing.T) runtime.Runtime { return b.open(name) }}
	})
}
