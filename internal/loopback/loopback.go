// Package loopback finds ports on the loopback address for servers that are started a moment later.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Below the range from which the kernel takes ports for outgoing connections, so that none of those is
// in the way when the server starts.
const (
	lowest  = 15000
	highest = 32000
	tries   = 1000
)

// Ports returns n ports of 127.0.0.1 on which nothing listens. They are chosen at random, so that
// processes that ask at the same time get different ones.
func Ports(n int) ([]int, error) {
	var (
		ports     []int
		listeners []net.Listener
		failed    error
	)
	for try := 0; len(ports) < n; try++ {
		if try == tries {
			failed = errors.Join(fmt.Errorf("no %d free ports between %d and %d", n, lowest, highest), failed)
			break
		}
		port := lowest + rand.N(highest-lowest)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			failed = err
			continue
		}
		ports, listeners = append(ports, port), append(listeners, l)
	}
	if len(ports) == n {
		failed = nil
	}
	for _, l := range listeners { // held until the last is chosen, so that they differ
		failed = errors.Join(failed, l.Close())
	}
	return ports, failed
}
