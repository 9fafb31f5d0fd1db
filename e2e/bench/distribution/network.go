package distribution

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	subnet = "10.213.77." // seen by nobody: no namespace has a way out
	link   = "eth0"       // of a node
	port   = "br0"        // of the switch
	burst  = "256kb"      // above the 64 KiB that the kernel hands to a link at once, so that it need not cut them up
)

// Network is a switch with nodes around it, each in a network namespace of its own.
type Network struct {
	hub    string   // namespace of the switch
	nodes  []string // their namespaces
	relays []*relay // one for each link that delays
}

// Links say what links are like. The zero value is as fast as they can be.
type Links struct {
	Megabits int           // a second that each carries in each direction; 0 for as much as it can
	Delay    time.Duration // of each in each direction: from node to node it is twice that
}

// Unavailable tells why no network can be made here, empty if one can.
func Unavailable() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " of iproute2 is not installed"
		}
	}
	if err := run(context.Background(), "ip", "netns", "list"); err != nil {
		return err.Error()
	}
	return ""
}

// NewNetwork makes a network of so many nodes. Close removes it.
func NewNetwork(ctx context.Context, nodes int, links Links) (*Network, error) {
	prefix := prefix()
	n := &Network{hub: prefix + "-hub"}
	for i := range nodes {
		n.nodes = append(n.nodes, fmt.Sprintf("%s-%d", prefix, i+1))
	}
	if err := n.make(ctx, links); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Network) make(ctx context.Context, links Links) error {
	err := script(ctx, []string{
		"ip netns add " + n.hub,
		"ip -n " + n.hub + " link add " + port + " type bridge",
		"ip -n " + n.hub + " addr add " + n.HubAddress() + "/24 dev " + port,
		"ip -n " + n.hub + " link set " + port + " up",
		"ip -n " + n.hub + " link set lo up",
	})
	for i, ns := range n.nodes {
		if err == nil {
			err = n.join(ctx, i, ns, links)
		}
	}
	return err
}

// join plugs a node into the switch.
func (n *Network) join(ctx context.Context, i int, ns string, links Links) error {
	plug := fmt.Sprintf("plug%d", i+1)
	socket := plug // what is plugged into the switch
	commands := []string{
		"ip netns add " + ns,
		"ip -n " + n.hub + " link add " + plug + " type veth peer name " + link + " netns " + ns,
	}
	if links.Delay > 0 {
		socket = plug + "s"
		commands = append(commands,
			"ip -n "+n.hub+" link add "+plug+"r type veth peer name "+socket,
			"ip -n "+n.hub+" link set "+plug+" up",
			"ip -n "+n.hub+" link set "+plug+"r up")
	}
	commands = append(commands,
		"ip -n "+n.hub+" link set "+socket+" master "+port+" up",
		"ip -n "+ns+" addr add "+n.Address(i)+"/24 dev "+link,
		"ip -n "+ns+" link set "+link+" up",
		"ip -n "+ns+" link set lo up",
	)
	if links.Megabits > 0 {
		shape := fmt.Sprintf(" root tbf rate %dmbit burst %s latency 50ms", links.Megabits, burst)
		commands = append(commands,
			"tc -n "+n.hub+" qdisc add dev "+plug+shape,
			"tc -n "+ns+" qdisc add dev "+link+shape)
	}
	if err := script(ctx, commands); err != nil || links.Delay == 0 {
		return err
	}
	r, err := startRelay(n.hub, [2]string{plug, plug + "r"}, links.Delay)
	if err == nil {
		n.relays = append(n.relays, r)
	}
	return err
}

// HubAddress is the address of whatever runs at the switch, as a controller.
func (n *Network) HubAddress() string { return subnet + "1" }

// Address is the address of the i-th node.
func (n *Network) Address(i int) string { return subnet + strconv.Itoa(10+i) }

// Sent returns how many bytes the i-th node has sent over its link, as the kernel counts them: with all
// headers, of which a packet that the kernel hands over at once has one set.
func (n *Network) Sent(i int) (int64, error) {
	var sent int64
	err := within(n.nodes[i], func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		sent, err = sentBytes(string(text))
		return err
	})
	return sent, err
}

// sentBytes finds the bytes sent over the link in the text of /proc/net/dev.
func sentBytes(text string) (int64, error) {
	const transmitted = 8 // column; eight are about what was received
	for line := range strings.Lines(text) {
		name, counters, _ := strings.Cut(strings.TrimSpace(line), ":")
		if fields := strings.Fields(counters); name == link && len(fields) > transmitted {
			return strconv.ParseInt(fields[transmitted], 10, 64)
		}
	}
	return 0, fmt.Errorf("the kernel lists no counters of %s", link)
}

// Listen listens on the i-th node's address.
func (n *Network) Listen(ctx context.Context, i int) (l net.Listener, err error) {
	err = within(n.nodes[i], func() error {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", n.Address(i)+":0")
		return err
	})
	return l, err
}

// Dial connects the i-th node with an address.
func (n *Network) Dial(ctx context.Context, i int, address string) (c net.Conn, err error) {
	err = within(n.nodes[i], func() error {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}

// Close removes the network. Whatever runs in it has ended before.
func (n *Network) Close() error {
	var errs []error
	for _, r := range n.relays {
		errs = append(errs, r.close())
	}
	for _, ns := range append([]string{n.hub}, n.nodes...) {
		if _, err := os.Stat(namespace(ns)); err != nil {
			continue // it was never made
		}
		errs = append(errs, run(context.Background(), "ip", "netns", "del", ns))
	}
	return errors.Join(errs...)
}

// Namespaces lists the namespaces that this process has made and not removed.
func Namespaces() []string {
	paths, err := filepath.Glob(namespace(prefix() + "-*"))
	if err != nil {
		return nil // the pattern is a good one
	}
	return paths
}

func prefix() string { return fmt.Sprintf("rqb-%d", os.Getpid()) }

func namespace(name string) string { return filepath.Join("/var/run/netns", name) }

// within runs f on a thread that is in that namespace. A socket stays in the namespace it was made in.
func within(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with this goroutine
		done <- entered(ns, f)
	}()
	return <-done
}

func entered(ns string, f func() error) error {
	fd, err := unix.Open(namespace(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", ns, err)
	}
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("enter namespace %s: %w", ns, err)
	}
	return f()
}

func script(ctx context.Context, commands []string) error {
	for _, c := range commands {
		words := strings.Fields(c)
		if err := run(ctx, words[0], words[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
