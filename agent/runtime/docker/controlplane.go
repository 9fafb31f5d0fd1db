package docker

import (
	"context"
	"errors"
	"time"

	"github.com/moby/moby/client"
)

// askTimeout is how long the engine may take to say which containers there are.
const askTimeout = 10 * time.Second

// ControlPlane returns the containers of the control plane that are there. Where the engine cannot be asked it returns
// all that might be.
func (r *Runtime) ControlPlane() []string {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var names []string
	err := r.connected(ctx, func(engine *client.Client) (err error) {
		names, err = r.controlPlane(ctx, engine)
		return err
	})
	if err != nil {
		r.o.Log.Warn("it cannot be told which containers of the control plane there are", "error", err)
		return r.o.ControlPlane
	}
	return names
}

func (r *Runtime) controlPlane(ctx context.Context, engine *client.Client) (names []string, err error) {
	err = r.eachControlPlane(ctx, engine, func(c *container) error {
		names = append(names, c.name)
		return nil
	})
	return names, err
}

// StopControlPlane stops the containers that run or that the engine would start, and keeps them stopped.
func (r *Runtime) StopControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected(ctx, func(engine *client.Client) error {
		return r.eachControlPlane(ctx, engine, func(c *container) error {
			h, err := r.readHold(c.name)
			if err != nil || h.State == "" && !c.isWanted() {
				return err
			}
			return r.stopContainer(ctx, engine, c)
		})
	})
}

// StartControlPlane starts the containers that StopControlPlane stopped, and no other.
func (r *Runtime) StartControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connected(ctx, func(engine *client.Client) error {
		return r.eachControlPlane(ctx, engine, func(c *container) error {
			h, err := r.readHold(c.name)
			if err != nil || h.State == "" {
				return err
			}
			return r.startContainer(ctx, engine, c)
		})
	})
}

// eachControlPlane calls do for every container of the control plane that is there, in order.
func (r *Runtime) eachControlPlane(ctx context.Context, engine *client.Client, do func(*container) error) error {
	for _, name := range r.o.ControlPlane {
		c, err := load(ctx, engine, name)
		if errors.Is(err, ErrNoContainer) {
			continue
		}
		if err != nil {
			return err
		}
		if err := do(c); err != nil {
			return err
		}
	}
	return nil
}
