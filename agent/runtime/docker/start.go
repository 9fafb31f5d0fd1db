package docker

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
)

// Start lets the engine start the container, which has its restart policy again.
func (r *Runtime) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected(ctx, func(engine *client.Client) error {
		c, err := load(ctx, engine, r.o.Container)
		if err != nil {
			return err
		}
		return r.startContainer(ctx, engine, c)
	})
}

// startContainer starts a container that may have been held. One that runs goes on.
func (r *Runtime) startContainer(ctx context.Context, engine *client.Client, c *container) error {
	if err := r.allowStart(ctx, engine, c); err != nil {
		return err
	}
	if _, err := engine.ContainerStart(ctx, c.id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start container %s: %w; see docker inspect %s", c.name, err, c.name)
	}
	now, err := load(ctx, engine, c.name)
	if err != nil {
		return err
	}
	if c.state.StartedAt == now.state.StartedAt { // it ran already, and the engine goes on counting
		r.setRestartsBefore(c.id, now.restarts)
	} else {
		r.setRestartsBefore(c.id, 0)
	}
	return r.forget(c.name)
}
