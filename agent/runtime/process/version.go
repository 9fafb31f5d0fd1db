package process

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// versionTimeout is how long the binary may take to tell its version.
const versionTimeout = 10 * time.Second

// versionCache keeps what the binary says about its version until the binary changes.
type versionCache struct {
	mu      sync.Mutex
	changed time.Time
	size    int64
	version string
}

// get returns the version of the binary, empty if it does not tell.
func (c *versionCache) get(ctx context.Context, o Options) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(o.Command[0])
	if err != nil {
		o.Log.Warn("etcd's binary is not there", "error", err)
		return ""
	}
	if info.ModTime().Equal(c.changed) && info.Size() == c.size {
		return c.version
	}
	version, err := ask(ctx, o)
	if err != nil {
		o.Log.Warn("etcd's binary does not tell its version", "binary", o.Command[0], "error", err)
	}
	if ctx.Err() == nil {
		c.changed, c.size, c.version = info.ModTime(), info.Size(), version
	}
	return version
}

func ask(ctx context.Context, o Options) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.Command[0], "--version")
	cmd.Env = o.Env
	cmd.SysProcAttr = (&Runtime{o: o}).attributes()
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	for line := range strings.Lines(string(out)) {
		if version, ok := strings.CutPrefix(line, "etcd Version: "); ok {
			return strings.TrimSpace(version), nil
		}
	}
	return "", err
}
