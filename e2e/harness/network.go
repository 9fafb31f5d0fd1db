package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Network gives the controller and each node a network namespace of its own, joined to a bridge by a pair of virtual
// interfaces, so that one can be cut off. It needs root, and iproute2; it is for a process that is itself in a namespace
// of its own, with which everything here goes away.
type Network struct {
	number int
	own    *os.File // the namespace of this process
	hosts  map[string]*host
}

type host struct {
	namespace *os.File
	number    int
}

// NewNetwork makes the networks of a cluster with these members. Each number is another network.
func NewNetwork(number int, names ...string) (*Network, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	n := &Network{number: number, own: own, hosts: map[string]*host{}}
	err = errors.Join(
		ip("link add %s type bridge", n.bridge()), ip("addr add %s/24 dev %s", n.address(1), n.bridge()), ip("link set %s up", n.bridge()), ip("link set lo up"),
	)
	for i, name := range names {
		err = errors.Join(err, n.join(name, i+2))
	}
	if err != nil {
		return nil, errors.Join(err, n.Remove())
	}
	return n, nil
}

func (n *Network) bridge() string            { return fmt.Sprintf("requorum%d", n.number) }
func (n *Network) address(number int) string { return fmt.Sprintf("10.77.%d.%d", n.number, number) }
func (n *Network) cable(name string) string {
	return fmt.Sprintf("rq%d-%d", n.number, n.hosts[name].number)
}

// join makes the namespace of one of them and connects it.
func (n *Network) join(name string, number int) error {
	namespace, err := newNamespace()
	if err != nil {
		return err
	}
	n.hosts[name] = &host{namespace: namespace, number: number}
	cable := n.cable(name)
	err = errors.Join(
		ip("link add %s type veth peer name %sn", cable, cable), ip("link set %s master %s", cable, n.bridge()), ip("link set %s up", cable),
		ip("link set %sn netns /proc/%d/fd/%d", cable, os.Getpid(), namespace.Fd()),
	)
	if err != nil {
		return err
	}
	return n.Launch(name, func() error {
		return errors.Join(ip("addr add %s/24 dev %sn", n.address(number), cable), ip("link set %sn up", cable), ip("link set lo up"))
	})
}

// newNamespace makes a network namespace that lives as long as the file, or a process in it.
func newNamespace() (*os.File, error) {
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			result <- made{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		result <- made{file, err}
	}()
	m := <-result
	return m.file, m.err
}

// Host is the address of the one of that name.
func (n *Network) Host(name string) string { return n.address(n.hosts[name].number) }

// Launch calls start, which starts a process, in the namespace of the one of that name.
func (n *Network) Launch(name string, start func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(int(n.hosts[name].namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network of %s: %w", name, err)
	}
	err := start()
	if back := unix.Setns(int(n.own.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave the network of %s: %w", name, back)) // the thread stays locked, and nobody else gets it
	}
	runtime.UnlockOSThread()
	return err
}

// Cut takes the one of that name off the network.
func (n *Network) Cut(name string) error { return ip("link set %s down", n.cable(name)) }

// Heal connects it again.
func (n *Network) Heal(name string) error { return ip("link set %s up", n.cable(name)) }

// Remove takes everything away.
func (n *Network) Remove() error {
	var errs []error
	for name, h := range n.hosts {
		errs = append(errs, ip("link del %s", n.cable(name)), h.namespace.Close())
	}
	return errors.Join(append(errs, ip("link del %s", n.bridge()), n.own.Close())...)
}

func ip(format string, args ...any) error {
	command := fmt.Sprintf(format, args...)
	out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", command, err, strings.TrimSpace(string(out)))
	}
	return nil
}
