package docker

import (
	"context"
	"fmt"
	"path/filepath"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/requorum/requorum/internal/durable"
)

// What the runtime wants of a container; empty for nothing.
const (
	stopped  = "stopped"  // it stays stopped
	starting = "starting" // it was held, and its start has begun
)

// hold is what is kept of a container that the runtime has stopped.
type hold struct {
	State         string            `json:"state"`
	Container     string            `json:"container"`      // its ID; another one may get the name
	RestartPolicy api.RestartPolicy `json:"restart_policy"` // that it had, and gets again
}

func (r *Runtime) holdFile(name string) string { return filepath.Join(r.o.Dir, name+".json") }

// readHold returns what the runtime wants of a container; the zero value if it wants nothing.
func (r *Runtime) readHold(name string) (hold, error) {
	var h hold
	if _, err := durable.ReadJSON(r.holdFile(name), &h); err != nil {
		return hold{}, fmt.Errorf("read what is kept of container %s: %w", name, err)
	}
	return h, nil
}

// keepStopped takes the container's restart policy away, after it was written down.
func (r *Runtime) keepStopped(ctx context.Context, engine *client.Client, c *container) error {
	h, err := r.readHold(c.name)
	if err != nil {
		return err
	}
	original := c.policy
	if c.policy.IsNone() && h.Container == c.id { // it was taken away before
		original = h.RestartPolicy
	}
	if err := durable.MkdirAll(r.o.Dir, 0o700); err != nil {
		return fmt.Errorf("keep container %s stopped: %w", c.name, err)
	}
	if err := durable.WriteJSON(r.holdFile(c.name), hold{State: stopped, Container: c.id, RestartPolicy: original}); err != nil {
		return fmt.Errorf("keep container %s stopped: %w", c.name, err)
	}
	return setPolicy(ctx, engine, c, api.RestartPolicy{Name: api.RestartPolicyDisabled})
}

// allowStart gives the container its restart policy back and remembers that it is to be started, for the agent might die
// before it is. A container that is not the one which was stopped keeps its own policy.
func (r *Runtime) allowStart(ctx context.Context, engine *client.Client, c *container) error {
	h, err := r.readHold(c.name)
	if err != nil || h.State == "" {
		return err
	}
	h.State = starting
	if err := durable.WriteJSON(r.holdFile(c.name), h); err != nil {
		return fmt.Errorf("let container %s start: %w", c.name, err)
	}
	if h.Container != c.id {
		return nil
	}
	return setPolicy(ctx, engine, c, h.RestartPolicy)
}

// forget removes what was kept of a container.
func (r *Runtime) forget(name string) error { return durable.Remove(r.holdFile(name)) }

// setPolicy sets a container's restart policy. Of those that start nothing, one is left as it is.
func setPolicy(ctx context.Context, engine *client.Client, c *container, policy api.RestartPolicy) error {
	if c.policy.IsSame(&policy) || c.policy.IsNone() && policy.IsNone() {
		return nil
	}
	if _, err := engine.ContainerUpdate(ctx, c.id, client.ContainerUpdateOptions{RestartPolicy: &policy}); err != nil {
		return fmt.Errorf("set the restart policy of container %s to %s: %w", c.name, policy.Name, err)
	}
	c.policy = policy
	return nil
}
