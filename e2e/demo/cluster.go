package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/cmd/requorum/dev"
)

// killEtcd kills a node's etcd as the kernel would, without asking it to end, and waits until it is gone.
func killEtcd(ctx context.Context, n *dev.Node) error {
	data, err := os.ReadFile(filepath.Join(n.AgentDir, "process", "etcd.pid.json"))
	if err != nil {
		return err
	}
	var process struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal(data, &process); err != nil {
		return fmt.Errorf("etcd's process on %s: %w", n.Name, err)
	}
	if process.PID <= 1 {
		return fmt.Errorf("etcd's process on %s is not known", n.Name)
	}
	if err := syscall.Kill(process.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill etcd on %s: %w", n.Name, err)
	}
	return datadir.WaitFree(ctx, n.DataDir, "", []string{n.ClientURL, n.PeerURL})
}

// connected returns once the controller has a session with every agent.
func (s *story) connected(ctx context.Context) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		resp, err := requorumv1.NewClusterServiceClient(s.cluster.Conn()).GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: s.cluster.Name})
		if err != nil {
			return err
		}
		count := 0
		for _, n := range resp.GetCluster().GetNodes() {
			if n.GetConnected() {
				count++
			}
		}
		if count == len(s.cluster.Nodes) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d agents are connected: %w", count, len(s.cluster.Nodes), context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
