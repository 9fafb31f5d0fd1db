package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// versionTimeout is how long an image may take to tell its etcd's version, and to be cleaned up after.
const versionTimeout = 30 * time.Second

// versionLabel is set on containers that only tell a version.
const versionLabel = "org.requorum.asks-version"

// versions keeps what programs of images said about their version. An image never changes.
type versions struct {
	mu    sync.Mutex
	known map[string]string // by image ID and program
}

// version returns the version of the etcd that the container starts. That its image or its program is not there is told
// by an empty version; that it is another program is an error, for then its arguments do not mean what etcd's do.
func (r *Runtime) version(ctx context.Context, engine *client.Client, c *container) (string, error) {
	r.versions.mu.Lock()
	defer r.versions.mu.Unlock()
	key := c.image + " " + c.path
	if version, ok := r.versions.known[key]; ok {
		return version, nil
	}
	out, err := c.askVersion(ctx, engine)
	if err != nil && ctx.Err() != nil {
		return "", fmt.Errorf("ask the image of container %s for etcd's version: %w", c.name, context.Cause(ctx))
	}
	if err != nil {
		r.o.Log.Warn("the image does not tell etcd's version", "container", c.name, "image", c.image, "error", err)
		return "", nil
	}
	version, ok := etcdconf.ParseVersion(out)
	if !ok {
		return "", fmt.Errorf("container %s runs %s: %w", c.name, c.path, etcdconf.ErrNotEtcd)
	}
	if r.versions.known == nil {
		r.versions.known = map[string]string{}
	}
	r.versions.known[key] = version
	return version, nil
}

// askVersion runs the container's program with --version in a container of its own, which has none of the other's mounts,
// no network and no rights, and which the engine removes once it has ended. A program from an image is never run outside
// of a container, where it would have the agent's rights.
func (c *container) askVersion(ctx context.Context, engine *client.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	made, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &api.Config{
			Image: c.image, Entrypoint: []string{c.path}, Cmd: []string{"--version"}, Env: c.env, User: c.user, WorkingDir: c.dir,
			AttachStdout: true, AttachStderr: true, Labels: map[string]string{versionLabel: c.name},
		},
		HostConfig: &api.HostConfig{
			AutoRemove: true, NetworkMode: "none", CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges"}, ReadonlyRootfs: true,
			LogConfig: api.LogConfig{Type: "none"},
		},
	})
	if err != nil {
		return "", err
	}
	out, err := runAttached(ctx, engine, made.ID)
	if err != nil {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), versionTimeout)
		defer cancel()
		_, removal := engine.ContainerRemove(cleanUp, made.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		return "", errors.Join(err, removal)
	}
	return out, nil
}

// runAttached starts a container and returns what it writes until it ends.
func runAttached(ctx context.Context, engine *client.Client, id string) (string, error) {
	attached, err := engine.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		return "", err
	}
	defer attached.Close()
	stop := context.AfterFunc(ctx, attached.Close) // the stream knows of no context
	defer stop()
	if _, err := engine.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return "", err
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &out, attached.Reader); err != nil {
		return "", errors.Join(err, context.Cause(ctx))
	}
	return out.String(), nil
}
