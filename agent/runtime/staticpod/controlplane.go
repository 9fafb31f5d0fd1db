package staticpod

import (
	"context"
	"errors"
	"fmt"

	"github.com/requorum/requorum/agent/runtime/cri"
)

// ControlPlane returns the manifests of the control plane that are there, for the kubelet or kept.
func (r *Runtime) ControlPlane() []string {
	var names []string
	for _, name := range r.o.ControlPlane {
		if _, _, err := r.read(name); errors.Is(err, ErrNoManifest) {
			continue
		} else if err != nil {
			r.o.Log.Warn("a manifest of the control plane cannot be read", "error", err)
		}
		names = append(names, name)
	}
	return names
}

// component is a part of the control plane whose manifest is there.
type component struct {
	name string
	pod  *pod
	live bool // the kubelet sees the manifest
}

// controlPlane returns the parts of the control plane, in order.
func (r *Runtime) controlPlane() (parts []component, err error) {
	for _, name := range r.o.ControlPlane {
		p, live, err := r.read(name)
		if errors.Is(err, ErrNoManifest) {
			continue
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, component{name, p, live})
	}
	return parts, nil
}

// StopControlPlane takes the manifests of the control plane away, in order, and waits until their pods have ended.
func (r *Runtime) StopControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts, err := r.controlPlane()
	if err != nil || len(parts) == 0 {
		return err
	}
	if err := r.note(func(s *state) { s.Owed = true }); err != nil {
		return err
	}
	var pods []*pod
	for _, part := range parts {
		if err := r.hold(part.name); err != nil {
			return fmt.Errorf("take %s away: %w", part.name, err)
		}
		pods = append(pods, part.pod)
	}
	return r.connected(ctx, func(c *cri.Client) error { return r.waitEnded(ctx, c, pods...) })
}

// StartControlPlane gives back what StopControlPlane took away, waits until each is healthy by its own probe, and restarts the
// kubelet, which has watched an API server whose past has changed.
func (r *Runtime) StartControlPlane(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.readState()
	if err != nil || !s.Owed {
		return err
	}
	parts, err := r.controlPlane()
	if err != nil {
		return err
	}
	if err := r.connected(ctx, func(c *cri.Client) error { return r.startParts(ctx, c, parts) }); err != nil {
		return err
	}
	if err := r.restartKubelet(ctx); err != nil {
		return err
	}
	return r.note(func(s *state) { s.Owed = false })
}

// startParts gives manifests back, in order, and waits until their pods are healthy.
func (r *Runtime) startParts(ctx context.Context, c *cri.Client, parts []component) error {
	var pods, away []*pod
	for _, part := range parts {
		if pods = append(pods, part.pod); !part.live {
			away = append(away, part.pod)
		}
	}
	if err := r.waitEnded(ctx, c, away...); err != nil { // a stop may have been cut short
		return err
	}
	for _, part := range parts {
		if err := r.release(part.name); err != nil {
			return fmt.Errorf("give %s back: %w", part.name, err)
		}
	}
	return r.waitHealthy(ctx, c, pods)
}
