package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// hostPath returns where a path of the container is on the host. It fails if it is not in a mount whose content is on the
// host also while the container is stopped. Empty stays empty.
func (c *container) hostPath(ctx context.Context, engine *client.Client, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	m, rest, ok := findMount(c.mounts, path)
	if !ok {
		return "", fmt.Errorf("%s is inside of container %s, where the agent cannot reach it; mount a directory of the host there", path, c.name)
	}
	if err := checkMount(ctx, engine, m); err != nil {
		return "", fmt.Errorf("%s of container %s: %w", path, c.name, err)
	}
	host := filepath.Join(m.Source, rest)
	return host, staysIn(host, m.Source)
}

// findMount returns the mount that a path of the container is in, and the path below it.
func findMount(mounts []api.MountPoint, path string) (found api.MountPoint, rest string, ok bool) {
	for _, m := range mounts {
		below, err := filepath.Rel(m.Destination, path)
		if err != nil || below == ".." || strings.HasPrefix(below, "../") {
			continue
		}
		if !ok || len(below) < len(rest) { // the innermost one is what the container sees
			found, rest, ok = m, below, true
		}
	}
	return found, rest, ok
}

// checkMount refuses mounts that hold nothing while the container is stopped.
func checkMount(ctx context.Context, engine *client.Client, m api.MountPoint) error {
	switch m.Type {
	case mount.TypeBind:
		return nil
	case mount.TypeVolume:
	default:
		return fmt.Errorf("a mount of type %s is gone while the container is stopped; use a directory of the host or a volume", m.Type)
	}
	v, err := engine.VolumeInspect(ctx, m.Name, client.VolumeInspectOptions{})
	if err != nil {
		return fmt.Errorf("ask the Docker engine for volume %s: %w", m.Name, err)
	}
	if v.Volume.Driver != "local" || len(v.Volume.Options) > 0 {
		return fmt.Errorf("volume %s is mounted by a driver or with options (docker volume inspect %s), and not there while the container is stopped; use a directory of the host or a plain volume", m.Name, m.Name)
	}
	return nil
}

// staysIn fails if the path leads out of the mount by a symlink, which means something else in the container. What is
// not there yet leads nowhere.
func staysIn(path, source string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	below, err := filepath.Rel(root, target)
	if err != nil {
		return err
	}
	if below == ".." || strings.HasPrefix(below, "../") {
		return fmt.Errorf("%s leads by a symlink out of %s, which the container has mounted; mount %s itself", path, source, target)
	}
	return nil
}
