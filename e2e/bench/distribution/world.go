package distribution

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/controller"
)

const (
	cluster  = "bench"
	snapshot = "file"
	patience = 2 * time.Minute // for processes to come up
	poll     = 50 * time.Millisecond
)

// world is a controller at the switch of a network and an agent on each node. No etcd runs: what is measured
// begins where a snapshot's file is on one node.
type world struct {
	net        *Network
	binary     string
	dir        string
	controller *dev.Process
	agents     []*dev.Process
	token      string
}

// newWorld starts the controller, and the agent of the source, which is node 0.
func newWorld(ctx context.Context, net *Network, binary, dir string) (*world, error) {
	w := &world{net: net, binary: binary, dir: dir}
	err := w.startController(ctx)
	if err == nil {
		err = w.startAgent(0)
	}
	if err == nil {
		err = w.connected(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) close() error {
	var errs []error
	for _, a := range w.agents {
		errs = append(errs, a.Stop())
	}
	if w.controller != nil {
		errs = append(errs, w.controller.Stop())
	}
	return errors.Join(errs...)
}

// process is a requorum that runs in a namespace.
func (w *world) process(name, ns string, env []string, args ...string) *dev.Process {
	return &dev.Process{
		Name: name, Dir: filepath.Join(w.dir, name), Env: env,
		Binary: "ip", Args: append([]string{"netns", "exec", ns, w.binary}, args...),
	}
}

func (w *world) startController(ctx context.Context) error {
	cfg := controller.DefaultConfig()
	cfg.Listen, cfg.DataDir = w.net.HubAddress()+":7079", filepath.Join(w.dir, "controller")
	file, err := writeConfig(w.dir, "controller", cfg)
	if err != nil {
		return err
	}
	w.controller = w.process("controller", w.net.hub, nil, "controller", "--config", file)
	if err := w.controller.Start(); err != nil {
		return err
	}
	return w.until(ctx, func() error {
		out, err := w.command(ctx, "token", "create", "--cluster", cluster)
		w.token = strings.TrimSpace(out)
		return err
	})
}

// startAgent starts the i-th node's agent. Its runtime finds an etcd that is stopped.
func (w *world) startAgent(i int) error {
	name := nodeName(i)
	cfg := agent.DefaultConfig()
	cfg.Controller, cfg.Node, cfg.DataDir = w.net.HubAddress()+":7079", name, filepath.Join(w.dir, name)
	cfg.Transfer.Listen = w.net.Address(i) + ":7080"
	cfg.Runtime.Exec = &agent.Exec{
		Stop: []string{"true"}, Start: []string{"true"}, Status: []string{"sh", "-c", "exit 3"},
		Member: agent.ExecMember{Name: name, DataDir: filepath.Join(w.dir, name, "etcd")},
	}
	file, err := writeConfig(w.dir, name, cfg)
	if err != nil {
		return err
	}
	a := w.process(name, w.net.nodes[i], []string{"REQUORUM_TOKEN=" + w.token}, "agent", "--config", file)
	if err := a.Start(); err != nil {
		return err
	}
	w.agents = append(w.agents, a)
	return nil
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func writeConfig(dir, name string, cfg any) (string, error) {
	data, err := yaml.Marshal(cfg)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		return "", err
	}
	file := filepath.Join(dir, name, "config.yaml")
	return file, os.WriteFile(file, data, 0o600)
}

// connected waits until every agent that was started is.
func (w *world) connected(ctx context.Context) error {
	return w.until(ctx, func() error {
		out, err := w.command(ctx, "cluster", "status", cluster, "--cached", "-o", "json")
		if err != nil {
			return err
		}
		var resp requorumv1.GetClusterResponse
		if err := protojson.Unmarshal([]byte(out), &resp); err != nil {
			return err
		}
		there := 0
		for _, n := range resp.GetCluster().GetNodes() {
			if n.GetConnected() {
				there++
			}
		}
		if there != len(w.agents) {
			return fmt.Errorf("%d of %d agents are connected", there, len(w.agents))
		}
		return nil
	})
}

// take makes the file a snapshot that the source alone holds.
func (w *world) take(ctx context.Context, file string) error {
	_, err := w.command(ctx, "snapshot", "import", "--node", nodeName(0), "--path", file, "--name", snapshot, "--skip-hash-check")
	return err
}

// distribute gives every other node the snapshot and returns the operation.
func (w *world) distribute(ctx context.Context) (*requorumv1.Operation, error) {
	out, err := w.command(ctx, "snapshot", "distribute", snapshot, "-o", "json")
	if err != nil {
		return nil, err
	}
	var resp requorumv1.DistributeSnapshotResponse
	err = protojson.Unmarshal([]byte(out), &resp)
	return resp.GetOperation(), err
}

// command runs an operator's command at the switch and returns what it printed.
func (w *world) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", w.net.hub, w.binary}, args...)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1",
		"REQUORUM_CONFIG="+filepath.Join(w.dir, "controller", "admin", "requorum.yaml"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("requorum %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// until calls ready until it returns nil.
func (w *world) until(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; logs are in %s", err, w.dir)
		case <-w.controller.Done():
			return fmt.Errorf("the controller has ended; its log is %s", w.controller.Log())
		case <-ticker.C:
		}
	}
}
