// Package dev runs a whole requorum on one machine, from the one binary: a controller, agents, and under
// each agent a real etcd member. It is what "requorum dev", the demo and the end-to-end tests start.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/runtime/process"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/loopback"
	"github.com/requorum/requorum/internal/pki"
)

// Options say what to run.
type Options struct {
	Binary  string   // requorum, an absolute path
	Dir     string   // for everything; made if needed. A directory that was used before goes on where it was.
	Name    string   // of the cluster; "dev" if empty
	Members int      // 3 if 0
	Etcd    []string // more arguments for every etcd
	Env     []string // environment of the processes, besides this one's

	// What differs between "controller" and the nodes, by name; each may be nil.
	EnvOf  func(name string) []string                        // more environment
	Host   func(name string) string                          // the address to listen on; the loopback address if nil
	Launch func(name string, start func() error) (err error) // calls start, as in a network namespace of its own
	// Configure may change the configurations before they are written.
	Configure func(node string, c *agent.Config)
	Control   func(c *controller.Config)
}

// Cluster is a running controller with its agents.
type Cluster struct {
	Options
	Controller *Process
	Nodes      []*Node
	Address    string // of the controller, host:port
	conn       *grpc.ClientConn
}

// Node is one agent and its etcd member.
type Node struct {
	Name      string
	Agent     *Process
	ClientURL string
	PeerURL   string
	DataDir   string // of etcd
	AgentDir  string
	config    agent.Config
}

const controllerName = "controller"

// layout is what a directory remembers of its cluster.
type layout struct {
	Controller string   `yaml:"controller"`
	Client     []int    `yaml:"client_ports"`
	Peer       []int    `yaml:"peer_ports"`
	Transfer   []string `yaml:"transfer"`
}

// Start starts a cluster and returns when every agent is connected and every member serves.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Name == "" {
		o.Name = "dev"
	}
	if o.Members == 0 {
		o.Members = 3
	}
	c := &Cluster{Options: o}
	if err := c.prepare(); err != nil {
		return nil, err
	}
	err := c.launch(ctx)
	if err == nil {
		err = c.WaitServing(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// prepare chooses ports and writes the configuration files, once for a directory.
func (c *Cluster) prepare() error {
	for _, dir := range []string{c.Dir, filepath.Join(c.Dir, "bin")} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	etcd := filepath.Join(c.Dir, "bin", "etcd") // the name by which the binary is etcd
	if err := os.Remove(etcd); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(c.Binary, etcd); err != nil {
		return err
	}
	l, err := c.layout()
	if err != nil {
		return err
	}
	c.Address = l.Controller
	initial := ""
	for i := range l.Client {
		initial += fmt.Sprintf(",%s=%s", nodeName(i), c.url(nodeName(i), l.Peer[i]))
	}
	for i := range l.Client {
		c.Nodes = append(c.Nodes, c.node(i, l, etcd, initial[1:]))
	}
	return c.writeConfigs()
}

func nodeName(i int) string { return fmt.Sprintf("etcd-%d", i+1) }

func (c *Cluster) host(name string) string {
	if c.Host == nil {
		return "127.0.0.1"
	}
	return c.Host(name)
}

func (c *Cluster) url(name string, port int) string {
	return fmt.Sprintf("http://%s:%d", c.host(name), port)
}

// process returns a process of the cluster, which is not started yet.
func (c *Cluster) process(name, dir string, args ...string) *Process {
	p := &Process{Name: name, Binary: c.Binary, Dir: dir, Args: args, Env: slices.Clone(c.Env)}
	if c.EnvOf != nil {
		p.Env = append(p.Env, c.EnvOf(name)...)
	}
	if c.Launch != nil {
		p.Launch = func(start func() error) error { return c.Launch(name, start) }
	}
	return p
}

func (c *Cluster) node(i int, l layout, etcd, initial string) *Node {
	name := nodeName(i)
	dir := filepath.Join(c.Dir, name)
	n := &Node{
		Name: name, ClientURL: c.url(name, l.Client[i]), PeerURL: c.url(name, l.Peer[i]),
		DataDir: filepath.Join(dir, "etcd"), AgentDir: filepath.Join(dir, "agent"),
	}
	command := append([]string{
		etcd, "--name=" + name, "--data-dir=" + n.DataDir,
		"--listen-client-urls=" + n.ClientURL, "--advertise-client-urls=" + n.ClientURL,
		"--listen-peer-urls=" + n.PeerURL, "--initial-advertise-peer-urls=" + n.PeerURL,
		"--initial-cluster=" + initial, "--initial-cluster-token=" + c.Name, "--log-level=warn",
	}, c.Etcd...)
	n.config = agent.DefaultConfig()
	n.config.Controller, n.config.Node, n.config.DataDir = c.Address, name, n.AgentDir
	n.config.Transfer.Listen = l.Transfer[i]
	n.config.Runtime.Process = &agent.Process{Command: command, Env: c.Env}
	if c.Configure != nil {
		c.Configure(name, &n.config)
	}
	n.Agent = c.process(name, dir, "agent", "--config", filepath.Join(dir, "agent.yaml"))
	return n
}

// layout reads what the directory remembers, or chooses ports that are free.
func (c *Cluster) layout() (layout, error) {
	path := filepath.Join(c.Dir, "layout.yaml")
	var l layout
	data, err := os.ReadFile(path)
	if err == nil {
		return l, yaml.Unmarshal(data, &l)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return l, err
	}
	ports, err := loopback.Ports(1 + 3*c.Members)
	if err != nil {
		return l, err
	}
	l.Controller = fmt.Sprintf("%s:%d", c.host(controllerName), ports[0])
	for i := range c.Members {
		l.Client, l.Peer = append(l.Client, ports[1+3*i]), append(l.Peer, ports[2+3*i])
		l.Transfer = append(l.Transfer, fmt.Sprintf("%s:%d", c.host(nodeName(i)), ports[3+3*i]))
	}
	if data, err = yaml.Marshal(l); err != nil {
		return l, err
	}
	return l, durable.WriteFile(path, data, 0o600)
}

func (c *Cluster) writeConfigs() error {
	cfg := controller.DefaultConfig()
	cfg.Listen, cfg.DataDir = c.Address, filepath.Join(c.Dir, "controller")
	if c.Control != nil {
		c.Control(&cfg)
	}
	c.Controller = c.process(controllerName, filepath.Join(c.Dir, "controller"), "controller", "--config", filepath.Join(c.Dir, "controller.yaml"))
	if err := writeYAML(filepath.Join(c.Dir, "controller.yaml"), cfg); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := durable.MkdirAll(n.Agent.Dir, 0o700); err != nil {
			return err
		}
		if err := writeYAML(filepath.Join(n.Agent.Dir, "agent.yaml"), n.config); err != nil {
			return err
		}
	}
	return nil
}

func writeYAML(path string, v any) error {
	data, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o600)
}

// launch starts the processes, and lets the agents in.
func (c *Cluster) launch(ctx context.Context) error {
	if err := c.Controller.Start(); err != nil {
		return err
	}
	if err := waitFor(ctx, c.Controller, c.Connect); err != nil {
		return err
	}
	token, err := c.joinToken(ctx)
	if err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if !enrolled(n) {
			n.Agent.Env = append(n.Agent.Env, "REQUORUM_TOKEN="+token)
		}
		if err := n.Agent.Start(); err != nil {
			return err
		}
	}
	return nil
}

func enrolled(n *Node) bool {
	_, err := os.Stat(filepath.Join(n.AgentDir, "credentials", pki.BundleFile))
	return err == nil
}

func (c *Cluster) joinToken(ctx context.Context) (string, error) {
	var token string
	err := waitFor(ctx, c.Controller, func() error {
		resp, err := requorumv1.NewAccessServiceClient(c.conn).CreateToken(ctx, &requorumv1.CreateTokenRequest{Cluster: c.Name, Ttl: durationpb.New(time.Hour)})
		token = resp.GetToken()
		return err
	})
	return token, err
}

// AdminConfig returns the path of the admin's client configuration.
func (c *Cluster) AdminConfig() string {
	return filepath.Join(c.Dir, "controller", "admin", "requorum.yaml")
}

// Connect makes the connection of the admin, with the files that the controller wrote for it.
func (c *Cluster) Connect() error {
	dir := filepath.Dir(c.AdminConfig())
	if _, err := os.Stat(c.AdminConfig()); err != nil {
		return err
	}
	creds, err := pki.LoadCredentials(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"), filepath.Join(dir, "ca.crt"))
	if err != nil {
		return err
	}
	c.conn, err = grpc.NewClient(c.Address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))))
	return err
}

// Conn returns a connection to the controller as the admin.
func (c *Cluster) Conn() *grpc.ClientConn { return c.conn }

// WaitServing returns when every agent is connected and every member serves with one leader.
func (c *Cluster) WaitServing(ctx context.Context) error {
	return waitFor(ctx, c.Controller, func() error {
		resp, err := requorumv1.NewClusterServiceClient(c.conn).GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: c.Name, Refresh: true})
		if err != nil {
			return err
		}
		nodes := resp.GetCluster().GetNodes()
		if len(nodes) != len(c.Nodes) {
			return fmt.Errorf("%d of %d nodes are enrolled", len(nodes), len(c.Nodes))
		}
		for _, n := range nodes {
			m := n.GetMember()
			if !n.GetConnected() || !m.GetServing() || m.GetLeader() == "" {
				return fmt.Errorf("node %s is not ready: %s", n.GetName(), m.GetError())
			}
		}
		return nil
	})
}

// Stop stops agents, members and controller. The directory stays.
func (c *Cluster) Stop() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.Agent.Stop(), n.StopEtcd())
	}
	if c.conn != nil {
		errs = append(errs, c.conn.Close())
	}
	return errors.Join(append(errs, c.Controller.Stop())...)
}

// StopEtcd stops a node's member, which outlives the agent, without changing the wish that it runs.
func (n *Node) StopEtcd() error {
	p := n.config.Runtime.Process
	if p == nil {
		return nil
	}
	rt, err := process.New(process.Options{Command: p.Command, Env: p.Env, Dir: filepath.Join(n.AgentDir, "process")})
	if err != nil {
		return err
	}
	return rt.Halt(context.Background()) // stopping must not end halfway
}
