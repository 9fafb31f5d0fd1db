package etcdtest

import (
	"testing"

	"github.com/requorum/requorum/internal/loopback"
)

// freePorts returns n ports of 127.0.0.1 that nothing listens on.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports, err := loopback.Ports(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}
