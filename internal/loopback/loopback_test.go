package loopback_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/requorum/requorum/internal/loopback"
)

func TestPortsAreDifferentAndFree(t *testing.T) {
	ports, err := loopback.Ports(20)
	if err != nil || len(ports) != 20 {
		t.Fatalf("%d ports, %v", len(ports), err)
	}
	for _, port := range ports { // listening on all of them at once fails if two are the same
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
}
