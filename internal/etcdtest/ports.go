package etcdtest

import (
	"net"
	"testing"
)

// freePorts returns n ports of 127.0.0.1 that nothing listens on. All are held until the last is chosen,
// so that they differ.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}
