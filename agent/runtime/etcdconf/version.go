package etcdconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// versionTimeout is how long the binary may take to tell its version.
const versionTimeout = 10 * time.Second

// ErrNotEtcd says that a program does not answer to --version as etcd does.
var ErrNotEtcd = errors.New("it is not etcd: it does not tell a version of etcd's")

// Binary is a program that is expected to be etcd.
type Binary struct {
	Path       string              // absolute
	Env        []string            // whole environment, as NAME=value
	Credential *syscall.Credential // user that it runs as; nil for the agent's own
}

// Versions keeps what a binary says about its version until the binary changes. The zero value is ready.
type Versions struct {
	mu      sync.Mutex
	path    string
	changed time.Time
	size    int64
	version string
	err     error
}

// Get returns the version of the binary. It fails with fs.ErrNotExist if it is not there and with ErrNotEtcd if it is
// another program.
func (v *Versions) Get(ctx context.Context, b Binary) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	info, err := os.Stat(b.Path)
	if err != nil {
		return "", fmt.Errorf("etcd's binary: %w", err)
	}
	if b.Path == v.path && info.ModTime().Equal(v.changed) && info.Size() == v.size {
		return v.version, v.err
	}
	version, err := askVersion(ctx, b)
	if ctx.Err() == nil {
		v.path, v.changed, v.size, v.version, v.err = b.Path, info.ModTime(), info.Size(), version, err
	}
	return version, err
}

func askVersion(ctx context.Context, b Binary) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.Path, "--version")
	cmd.Env, cmd.Dir = b.Env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: b.Credential}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if version, ok := ParseVersion(string(out)); ok {
		return version, nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("%s --version: %w", b.Path, context.Cause(ctx))
	}
	return "", errors.Join(fmt.Errorf("%s: %w", b.Path, ErrNotEtcd), err)
}

// ParseVersion returns the version in what etcd prints for --version.
func ParseVersion(output string) (string, bool) {
	for line := range strings.Lines(output) {
		if version, ok := strings.CutPrefix(line, "etcd Version: "); ok {
			return strings.TrimSpace(version), true
		}
	}
	return "", false
}

// versionTag is the beginning of a tag such as 3.6.5-0.
var versionTag = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)`)

// ImageVersion returns the version that the tag of a container image with etcd begins with.
func ImageVersion(image string) (string, bool) {
	name, _, _ := strings.Cut(image, "@")
	_, tag, _ := strings.Cut(name[strings.LastIndexByte(name, '/')+1:], ":")
	found := versionTag.FindStringSubmatch(tag)
	if found == nil {
		return "", false
	}
	return found[1], true
}
