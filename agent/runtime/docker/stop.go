package docker

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/datadir"
)

// lookInterval is how often it is looked what became of a container.
const lookInterval = 50 * time.Millisecond

// Stop lets the engine stop the container and keeps it stopped. What lingers after the grace is killed. It returns once
// no process of the container is left and nothing holds the member's data and ports.
func (r *Runtime) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected(ctx, func(engine *client.Client) error {
		c, err := load(ctx, engine, r.o.Container)
		if err != nil {
			return err
		}
		m, err := c.member(ctx, engine) // before anything is changed, for without it it cannot be told that the data is free
		if err != nil {
			return err
		}
		if err := r.stopContainer(ctx, engine, c); err != nil {
			return err
		}
		return datadir.WaitFree(ctx, m.DataDir, m.WALDir, m.ListenURLs())
	})
}

// stopContainer stops a container for good and returns once none of its processes is left. One that the engine was just
// about to start again is stopped once more.
func (r *Runtime) stopContainer(ctx context.Context, engine *client.Client, c *container) error {
	if err := r.keepStopped(ctx, engine, c); err != nil {
		return err
	}
	grace := int(math.Ceil(r.o.Grace.Seconds()))
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		if _, err := engine.ContainerStop(ctx, c.id, client.ContainerStopOptions{Timeout: &grace}); err != nil {
			return fmt.Errorf("stop container %s: %w", c.name, err)
		}
		now, err := load(ctx, engine, c.name)
		if err != nil {
			return err
		}
		left, err := now.processes()
		if err != nil {
			return err
		}
		if len(left) == 0 && now.state.Pid == 0 && !now.state.Running && !now.state.Restarting {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("processes %v of container %s do not end: %w", left, c.name, context.Cause(ctx))
		}
	}
}
