package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/fault/faulttest"
)

const (
	// Patience is how long anything may take that ends by itself.
	Patience = 90 * time.Second
	// Name is the name of the cluster.
	Name = "prod"

	poll      = 50 * time.Millisecond
	clusters  = 2 // at a time: each is seven processes, and they are timed
	logLines  = 60
	stopGrace = 15 * time.Second
)

var slots = make(chan struct{}, clusters)

// Options say what to start. The zero value is three members without TLS.
type Options struct {
	Members   int
	Patience  time.Duration              // if more than Patience is needed
	Etcd      []string                   // more arguments for every etcd
	Env       func(name string) []string // more environment of the controller or a node; may be nil
	Configure func(node string, c *agent.Config)
	Control   func(c *controller.Config)

	Beside bool                                        // start it beside any number of others
	Host   func(name string) string                    // as of dev.Options
	Launch func(name string, start func() error) error // the same

	ClientTLS          *tls.Config // with which the test talks to etcd
	Username, Password string      // the same, once the test has enabled authentication
	HTTPS              bool        // etcd's URLs are https
}

// Cluster is a running cluster under test.
type Cluster struct {
	*dev.Cluster
	Options Options
	Faults  faulttest.Dir

	t       testing.TB
	bin     string
	written int // keys written so far, the deleted ones included
	mu      sync.Mutex
	clients map[string]*clientv3.Client
}

// environment is what a process has besides that of the test.
func (c *Cluster) environment(name string) []string {
	env := c.Faults.Env(name)
	if c.Options.Env != nil {
		env = append(env, c.Options.Env(name)...)
	}
	return env
}

// Start starts a cluster and ends everything it started when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	plain, faults := Binaries(t)
	if !o.Beside {
		slots <- struct{}{}
		t.Cleanup(func() { <-slots })
	}
	dir := t.TempDir()
	c := &Cluster{t: t, Options: o, bin: plain, Faults: faulttest.Dir(filepath.Join(dir, "faults")), clients: map[string]*clientv3.Client{}}
	etcd := filepath.Join(dir, "plain", "etcd") // etcd itself is not under test, and without the race detector it starts faster
	for _, d := range []string{string(c.Faults), filepath.Dir(etcd)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(plain, etcd); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), Patience, errors.New("the cluster did not come up in time"))
	defer cancel()
	var err error
	c.Cluster, err = dev.Start(ctx, dev.Options{
		Binary: faults, Dir: filepath.Join(dir, "c"), Name: Name, Members: o.Members,
		Etcd:  append([]string{"--heartbeat-interval=50", "--election-timeout=500"}, o.Etcd...),
		EnvOf: c.environment, Host: o.Host, Launch: o.Launch,
		Configure: func(node string, a *agent.Config) {
			a.Runtime.Process.Command[0] = etcd
			a.StartWait = config.Duration(30 * time.Second)
			if o.Configure != nil {
				o.Configure(node, a)
			}
		},
		Control: func(cc *controller.Config) {
			cc.Heartbeat = config.Duration(300 * time.Millisecond)
			cc.OfflineAfter, cc.StalledAfter = config.Duration(5*time.Second), config.Duration(20*time.Second)
			if o.Control != nil {
				o.Control(cc)
			}
		},
	})
	if err != nil {
		c.dumpLogs(filepath.Join(dir, "c"))
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	return c
}

// On makes another test, or a part of one, hear of what goes wrong from now on.
func (c *Cluster) On(t testing.TB) { c.t = t }

// end ends every process of the cluster, by its ID, and shows the logs of a failed test.
func (c *Cluster) end() {
	c.Disarm()
	for _, client := range c.clients {
		_ = client.Close() // says only that its context ended
	}
	if c.t.Failed() {
		c.dumpLogs(c.Dir)
	}
	done := make(chan error, 1)
	go func() { done <- c.Stop() }()
	select {
	case err := <-done:
		if err != nil {
			c.t.Errorf("stop the cluster: %v", err)
		}
	case <-time.After(stopGrace):
		c.t.Errorf("the cluster did not stop within %s", stopGrace)
		c.killAll()
		if err := <-done; err != nil {
			c.t.Errorf("stop the cluster: %v", err)
		}
	}
	for _, p := range c.processes() {
		c.t.Errorf("still running after the end: %s", p)
		p.kill()
	}
}

func (c *Cluster) killAll() {
	for _, p := range c.processes() {
		p.kill()
	}
}

// dumpLogs shows the end of every log under dir.
func (c *Cluster) dumpLogs(dir string) {
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".log" {
			return nil //nolint:nilerr // what cannot be read is left out
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
		lines = lines[max(0, len(lines)-logLines):]
		rel, _ := filepath.Rel(dir, path)
		c.t.Logf("---- %s\n%s", rel, strings.Join(lines, "\n"))
		return nil
	})
}

// Node returns the node of that name.
func (c *Cluster) Node(name string) *dev.Node {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("there is no node %q", name)
	return nil
}

// NodeNames lists all nodes.
func (c *Cluster) NodeNames() []string {
	var names []string
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return names
}

// Vault is the directory of a node's snapshots.
func (c *Cluster) Vault(node string) string {
	return filepath.Join(c.Node(node).AgentDir, "snapshots")
}

// Copy is the path of a node's copy of a snapshot.
func (c *Cluster) Copy(node, snapshot string) string {
	return filepath.Join(c.Vault(node), snapshot+".db")
}

// Process returns the process of the controller or of a node's agent.
func (c *Cluster) Process(name string) *dev.Process {
	c.t.Helper()
	if name == "controller" {
		return c.Controller
	}
	return c.Node(name).Agent
}

// Arm makes a fault point act on a node, or on "controller", as package fault describes.
func (c *Cluster) Arm(point, node, action string) {
	c.t.Helper()
	c.must(c.Faults.Arm(point, node, action))
}

// WaitFired returns when an armed point has fired.
func (c *Cluster) WaitFired(point, node string) {
	c.t.Helper()
	ctx, cancel := c.patient("the fault point " + point + " did not fire")
	defer cancel()
	_, err := c.Faults.Wait(ctx, point, node, 1)
	c.must(err)
}

// Fired tells whether a point has fired, and forgets it.
func (c *Cluster) Fired(point, node string) bool {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := c.Faults.Wait(ctx, point, node, 1)
	if err == nil {
		c.must(c.Faults.Forget(point, node))
	}
	return err == nil
}

// Disarm takes back everything that is armed, and forgets what fired.
func (c *Cluster) Disarm() {
	c.t.Helper()
	entries, err := os.ReadDir(string(c.Faults))
	c.must(err)
	for _, e := range entries {
		if err := os.Remove(filepath.Join(string(c.Faults), e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.t.Error(err)
		}
	}
}

// StartAgain starts the controller or a node's agent, and waits until the controller answers or the agent is connected.
func (c *Cluster) StartAgain(name string) {
	c.t.Helper()
	c.must(c.Process(name).Start())
	c.must(c.until(name+" did not come back", func(ctx context.Context) error {
		resp, err := requorumv1.NewClusterServiceClient(c.Conn()).GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: Name})
		if err != nil {
			return err
		}
		for _, n := range resp.GetCluster().GetNodes() {
			if n.GetName() == name && !n.GetConnected() {
				return fmt.Errorf("%s is not connected", name)
			}
		}
		return nil
	}))
}

// patient returns a context that ends, with a cause that says what took too long, after Patience.
func (c *Cluster) patient(what string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), max(Patience, c.Options.Patience), errors.New(what))
}

// until calls ready until it returns nil, and returns its last error if that takes too long.
func (c *Cluster) until(what string, ready func(context.Context) error) error {
	ctx, cancel := c.patient(what)
	defer cancel()
	return retry(ctx, ready)
}

func retry(ctx context.Context, ready func(context.Context) error) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// Until waits until ready, or returns an error that says what took too long.
func (c *Cluster) Until(what string, ready func() bool) error {
	return c.until(what, func(context.Context) error {
		if ready() {
			return nil
		}
		return errors.New("not yet")
	})
}
