// Package operator is what tests with hosts have in common: etcd as a unit, and requorum's admin on the controller's host.
package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/requorum/requorum/internal/dockertest"
	"github.com/requorum/requorum/internal/hosttest"
)

// EtcdUnit runs etcd, and APIServerUnit stands for what writes to it.
const (
	EtcdUnit = `[Unit]
Description=etcd
After=network-online.target

[Service]
Type=notify
User=etcd
EnvironmentFile=/etc/etcd.env
ExecStart=/usr/local/bin/etcd
Restart=always

[Install]
WantedBy=multi-user.target
`
	APIServerUnit = `[Service]
ExecStart=/bin/sleep infinity
Restart=always

[Install]
WantedBy=multi-user.target
`
)

// AdminDir is where the controller puts what its admin needs, on its host.
const AdminDir = "/var/lib/requorum/controller/admin"

// Binary returns the static binary of requorum that REQUORUM_BIN names, or builds it.
func Binary(t testing.TB) string {
	t.Helper()
	file, err := dockertest.Binary(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Try runs a command of requorum as the admin.
func Try(ctx context.Context, controller *hosttest.Host, args ...string) (string, error) {
	return controller.Exec(ctx, append([]string{"requorum", "--config", AdminDir + "/requorum.yaml"}, args...)...)
}

// AwaitServing waits until the controller answers.
func AwaitServing(t testing.TB, controller *hosttest.Host) {
	t.Helper()
	controller.Await("the controller serves", func() (bool, error) {
		_, err := Try(t.Context(), controller, "cluster", "ls")
		return err == nil, err
	})
}

// AwaitHealthy waits until so many agents are connected and as many members serve.
func AwaitHealthy(t testing.TB, controller *hosttest.Host, nodes int) {
	t.Helper()
	controller.Await("the cluster is healthy", func() (bool, error) {
		status, err := Try(t.Context(), controller, "cluster", "status")
		serve := strings.Count(status, "leader") + strings.Count(status, "follower")
		all := fmt.Sprintf("%d of %d connected", nodes, nodes)
		return strings.Contains(status, all) && serve == nodes, errors.Join(err, errors.New(status))
	})
}

// ExpectNothingLeft fails if a host keeps etcd stopped, or has staged data.
func ExpectNothingLeft(t testing.TB, h *hosttest.Host) {
	t.Helper()
	if left := h.Run("find", "/etc/systemd/system", "/var/lib", "-name", "*requorum-stop*", "-o", "-name", "*.staging-*"); left != "" {
		t.Errorf("%s: left behind: %s", h.Name, left)
	}
}
