package staticpod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/runtime/cri"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
	"github.com/requorum/requorum/internal/durable"
)

// Start gives etcd's manifest back to the kubelet and returns once etcd's container runs or has run. It does so also where
// the manifest was changed by StartJoining, which starts etcd again.
func (r *Runtime) Start(ctx context.Context) error {
	return r.start(ctx, r.seesOwn, func() error {
		if err := r.release(r.etcd()); err != nil {
			return fmt.Errorf("give etcd's manifest back: %w", err)
		}
		return r.note(func(s *state) { s.Joining = "" })
	})
}

// seesOwn tells whether the kubelet sees a manifest of etcd's that StartJoining has not written.
func (r *Runtime) seesOwn() (bool, error) {
	p, live, err := r.read(r.etcd())
	if err != nil || !live {
		return false, err
	}
	ours, err := r.isOurs(p.text)
	return !ours, err
}

// start lets the kubelet see a manifest by place, unless inPlace tells that it does, and waits for the container.
func (r *Runtime) start(ctx context.Context, inPlace func() (bool, error), place func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, _, err := r.read(r.etcd())
	if err != nil {
		return err
	}
	return r.connected(ctx, func(c *cri.Client) error {
		there, err := inPlace()
		if err != nil {
			return err
		}
		if !there {
			// A stop may have been cut short. A manifest that is back before the kubelet has missed it would start nothing.
			if err := r.hold(r.etcd()); err != nil {
				return err
			}
			if err := r.waitEnded(ctx, c, p); err != nil {
				return err
			}
		}
		before, err := c.Look(ctx, p.named())
		if err != nil {
			return err
		}
		if err := place(); err != nil {
			return err
		}
		if now := before.Running(p.etcd().Name); now != nil {
			return r.note(func(s *state) { s.Started = now.GetId() }) // whoever starts it now asks about this one
		}
		return r.waitStarted(ctx, c, p, before)
	})
}

// waitStarted waits until there is a container of etcd's that was not there before, and notes which.
func (r *Runtime) waitStarted(ctx context.Context, c *cri.Client, p *pod, before cri.Seen) error {
	name := p.etcd().Name
	old := before.IDs(name)
	return c.Wait(ctx, func(s cri.Seen) (waitsFor, err error) {
		k := s.Running(name)
		if k == nil {
			k = s.Ended(name, "") // Alive tells
		}
		if k != nil && !slices.Contains(old, k.GetId()) {
			return nil, r.note(func(s *state) { s.Started = k.GetId() })
		}
		return fmt.Errorf("the kubelet does not start %s (see journalctl -u %s)", r.o.Manifest, r.o.Kubelet), nil
	}, p.named())
}

// StartJoining starts etcd by a manifest that differs from etcd's own in the flags for joining. The own one stays where it
// is kept until the next start. It fails with etcdconf.ErrConfigFile if etcd is configured by a file.
func (r *Runtime) StartJoining(ctx context.Context, initialCluster string) error {
	p, _, err := r.read(r.etcd())
	if err == nil {
		_, err = p.joining(initialCluster) // before anything is changed
	}
	if err == nil {
		err = r.start(ctx, func() (bool, error) { return r.joinsAlready(initialCluster) }, func() error { return r.placeJoining(initialCluster) })
	}
	if err != nil {
		return fmt.Errorf("start etcd as a joining member: %w", err)
	}
	return nil
}

// placeJoining lets the kubelet see a manifest that joins, while the own one is kept.
func (r *Runtime) placeJoining(initialCluster string) error {
	r.files.Lock()
	defer r.files.Unlock()
	if there, err := exists(r.live(r.etcd())); err != nil || there {
		return err
	}
	text, err := r.joining(initialCluster)
	if err != nil {
		return err
	}
	if err := r.note(func(s *state) { s.Joining = sum(text) }); err != nil {
		return err
	}
	made := r.held(r.etcd()) + ".joining"
	if err := r.step("write "+made, func() error { return writeLike(r.held(r.etcd()), made, text) }); err != nil {
		return err
	}
	return r.move(made, r.live(r.etcd()))
}

// joinsAlready tells whether the manifest that the kubelet sees is the one that would be written.
func (r *Runtime) joinsAlready(initialCluster string) (bool, error) {
	kept, err := exists(r.held(r.etcd()))
	if err != nil || !kept {
		return false, err
	}
	want, err := r.joining(initialCluster)
	if err != nil {
		return false, err
	}
	text, err := os.ReadFile(r.live(r.etcd()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return bytes.Equal(text, want), err
}

// joining returns the kept manifest with the flags for joining.
func (r *Runtime) joining(initialCluster string) ([]byte, error) {
	text, err := os.ReadFile(r.held(r.etcd()))
	if err != nil {
		return nil, err
	}
	p, err := parse(r.held(r.etcd()), text)
	if err != nil {
		return nil, err
	}
	return p.joining(initialCluster)
}

// joining returns the manifest with etcd's command changed so that a member without data joins the cluster.
func (p *pod) joining(initialCluster string) ([]byte, error) {
	if p.etcdIndex() < 0 {
		return nil, p.errNoEtcd()
	}
	c := p.etcd()
	args, env, err := c.commandLine()
	if err != nil {
		return nil, err
	}
	joinArgs, joinEnv, err := etcdconf.Joining(args, env, initialCluster)
	if err != nil {
		return nil, err
	}
	command := []string{c.Command[0]}
	for _, a := range joinArgs {
		command = append(command, strings.ReplaceAll(a, "$", "$$")) // variables are put in already
	}
	variables := []map[string]string{}
	for _, kv := range joinEnv {
		name, value, _ := strings.Cut(kv, "=")
		variables = append(variables, map[string]string{"name": name, "value": strings.ReplaceAll(value, "$", "$$")})
	}
	return p.edited(map[string]any{"command": command, "args": []string{}, "env": variables})
}

// edited returns the manifest with keys of etcd's container set.
func (p *pod) edited(keys map[string]any) ([]byte, error) {
	var whole map[string]any
	if err := yaml.Unmarshal(p.text, &whole); err != nil {
		return nil, err
	}
	spec, _ := whole["spec"].(map[string]any)
	containers, _ := spec["containers"].([]any)
	etcd, ok := containers[p.etcdIndex()].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: its containers are not a list of objects", p.path)
	}
	for key, value := range keys {
		etcd[key] = value
	}
	return yaml.Marshal(whole)
}

// writeLike writes a file with the mode and owner of another.
func writeLike(model, path string, text []byte) error {
	info, err := os.Stat(model)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(path, text, info.Mode().Perm()); err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner cannot be told", model)
	}
	return os.Chown(path, int(stat.Uid), int(stat.Gid))
}
