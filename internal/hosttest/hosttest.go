// Package hosttest runs hosts for tests: containers with Debian, systemd as init and addresses of their own in a network
// of their own, from an image that image.sh builds once. It needs root and a Docker engine, which docker talks to.
// Where there is none, tests skip and say so; with CI=true they fail. It is for tests only.
package hosttest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/lacking"
)

const (
	patience = 2 * time.Minute  // for anything that a host does; generous, for slow machines
	building = 15 * time.Minute // for building the image
)

//go:embed image.sh
var recipe []byte

// image builds the image unless it is there. It returns the name or why there can be none.
var image = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), building)
	defer cancel()
	if _, err := docker(ctx, "info"); err != nil {
		return "", fmt.Errorf("no Docker engine: %w", err)
	}
	dir, err := os.MkdirTemp("", "requorum-host-")
	if err != nil {
		return "", err
	}
	script := filepath.Join(dir, "image.sh")
	if err := os.WriteFile(script, recipe, 0o600); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	name, err := output(exec.CommandContext(ctx, "bash", script))
	return strings.TrimSpace(name), errors.Join(err, os.RemoveAll(dir))
})

// Image returns the image of a host. Without an engine it skips the test, or fails it where CI=true.
func Image(t testing.TB) string {
	t.Helper()
	name, err := image()
	if err != nil {
		lacking.Part(t, "this test needs hosts: %v", err)
	}
	return name
}

// Network is a network with hosts in it.
type Network struct {
	Name   string // Docker's
	Hosts  []*Host
	prefix string // of the hosts' addresses: "10.213.7."
}

// Host is a host. Its root file system is its own and survives a reboot; /run and /tmp do not.
type Host struct {
	Name    string   // host name, which the others resolve
	Address string   // IPv4
	id      string   // container
	run     []string // arguments of docker run
	t       testing.TB
}

// Options say how hosts are run besides the usual.
type Options struct {
	Run     []string // more arguments for docker run, such as --tmpfs=/data:size=64m
	Volumes []string // directories of each host that are on volumes of its own; they outlive Replace
}

// Start starts a host for each name and returns once all have booted. They go when the test ends.
func Start(t testing.TB, o Options, names ...string) *Network {
	t.Helper()
	name := Image(t)
	n := makeNetwork(t)
	for i, host := range names {
		n.Hosts = append(n.Hosts, n.run(t, o, name, host, fmt.Sprintf("%s%d", n.prefix, i+10)))
	}
	for _, h := range n.Hosts {
		h.waitBooted()
	}
	return n
}

// makeNetwork makes a network in a range that is free. Hosts get fixed addresses, which needs a range that was named.
func makeNetwork(t testing.TB) *Network {
	t.Helper()
	const tries = 20
	var err error
	for range tries {
		n := &Network{prefix: fmt.Sprintf("10.%d.%d.", 200+rand.N(50), rand.N(256)), Name: fmt.Sprintf("requorum-test-%08x", rand.Uint32())}
		if _, err = docker(t.Context(), "network", "create", "--subnet", n.prefix+"0/24", n.Name); err == nil {
			t.Cleanup(func() { cleanUp(t, "network", "rm", n.Name) })
			return n
		}
	}
	t.Fatalf("make a network: %v", err)
	return nil
}

func (n *Network) run(t testing.TB, o Options, image, name, address string) *Host {
	t.Helper()
	args := []string{
		"run", "--detach", "--tty", "--hostname", name, "--network-alias", name, "--network", n.Name, "--ip", address,
		// systemd as init needs the first two. With the third, root sees what other users' processes hold, as on a real
		// host, and /tmp can run programs.
		"--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", "--tmpfs", "/sys/fs/cgroup", "--stop-signal", "SIGRTMIN+3",
	}
	for i, dir := range o.Volumes {
		volume := fmt.Sprintf("%s-%s-%d", n.Name, name, i)
		if _, err := docker(t.Context(), "volume", "create", volume); err != nil {
			t.Fatalf("make a volume for %s: %v", name, err)
		}
		t.Cleanup(func() { cleanUp(t, "volume", "rm", volume) })
		args = append(args, "--volume", volume+":"+dir)
	}
	h := &Host{Name: name, Address: address, run: append(append(args, o.Run...), image), t: t}
	t.Cleanup(h.remove)
	h.start()
	return h
}

// start makes the host's container.
func (h *Host) start() {
	h.t.Helper()
	out, err := docker(h.t.Context(), h.run...)
	h.id = strings.TrimSpace(out)
	if err != nil {
		h.t.Fatalf("start host %s: %v", h.Name, err)
	}
}

func (h *Host) remove() {
	if h.id != "" {
		cleanUp(h.t, "rm", "--force", "--volumes", h.id)
	}
}

// Lose ends the host at once and for good: all is gone but its volumes.
func (h *Host) Lose() {
	h.t.Helper()
	h.docker("rm", "--force", "--volumes", h.id)
	h.id = ""
}

// Replace boots a new host of the same name and address, with the volumes of the one that was lost and nothing else of it.
func (h *Host) Replace() {
	h.t.Helper()
	h.start()
	h.waitBooted()
}

// On makes another test, or a part of one, hear of what goes wrong from now on.
func (h *Host) On(t testing.TB) { h.t = t }

func cleanUp(t testing.TB, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := docker(ctx, args...); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// waitBooted waits until systemd has started all that it starts at boot.
func (h *Host) waitBooted() {
	h.t.Helper()
	h.Await("the host has booted", func() (bool, error) {
		out, err := h.Exec(h.t.Context(), "systemctl", "is-system-running")
		state := strings.TrimSpace(out)
		return state == "running" || state == "degraded", err
	})
}

const lookInterval = 100 * time.Millisecond

// Await waits until done returns true. What it failed with last is shown where it takes too long.
func (h *Host) Await(what string, done func() (bool, error)) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		ok, err := done()
		if ok {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			h.t.Fatalf("%s: in vain it was waited until %s; last error: %v", h.Name, what, err)
		}
	}
}

// Exec runs a command on the host, without a shell, as root. It returns its standard output, also when it fails; the
// error holds what it wrote to standard error.
func (h *Host) Exec(ctx context.Context, command ...string) (string, error) {
	return docker(ctx, append([]string{"exec", h.id}, command...)...)
}

// Run runs a command like Exec; the test fails if it fails.
func (h *Host) Run(command ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	out, err := h.Exec(ctx, command...)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", h.Name, err, out)
	}
	return out
}

// Copy copies a file or directory of this machine to the host, with its mode and owned by root. The directory that it
// goes to has to be there, and must not be a tmpfs.
func (h *Host) Copy(from, to string) {
	h.t.Helper()
	if _, err := docker(h.t.Context(), "cp", from, h.id+":"+to); err != nil {
		h.t.Fatalf("copy to %s: %v", h.Name, err)
	}
	h.Run("chown", "-R", "root:root", to)
}

// Fetch copies a file or directory of the host to this machine.
func (h *Host) Fetch(from, to string) {
	h.t.Helper()
	if _, err := docker(h.t.Context(), "cp", h.id+":"+from, to); err != nil {
		h.t.Fatalf("copy from %s: %v", h.Name, err)
	}
}

// Write writes a file on the host, with mode 0644, and makes the directory for it.
func (h *Host) Write(path, content string) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "docker", "exec", "--interactive", h.id, "install", "-D", "-m", "0644", "/dev/stdin", path)
	cmd.Stdin = strings.NewReader(content)
	if _, err := output(cmd); err != nil {
		h.t.Fatalf("write %s on %s: %v", path, h.Name, err)
	}
}

// Reboot shuts the host down in order and boots it. It returns once it has booted.
func (h *Host) Reboot() {
	h.t.Helper()
	h.docker("restart", "--time", "60", h.id)
	h.waitBooted()
}

// PowerOff ends the host at once, as a power cut does, but that what was written to files stays.
func (h *Host) PowerOff() {
	h.t.Helper()
	h.docker("kill", h.id)
	h.docker("wait", h.id)
}

// PowerOn boots a host that is off.
func (h *Host) PowerOn() {
	h.t.Helper()
	h.docker("start", h.id)
	h.waitBooted()
}

// Cut pulls the host's network cable. Addresses stay and are reached from the host itself.
func (h *Host) Cut() {
	h.t.Helper()
	h.Run("ip", "link", "set", "eth0", "down")
}

// Mend puts the cable back.
func (h *Host) Mend() {
	h.t.Helper()
	h.Run("ip", "link", "set", "eth0", "up")
}

func (h *Host) docker(args ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if _, err := docker(ctx, args...); err != nil {
		h.t.Fatalf("%s: %v", h.Name, err)
	}
}

func docker(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "docker", args...))
}

// output returns what a command printed, also when it fails; the error says what it wrote to standard error.
func output(cmd *exec.Cmd) (string, error) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
