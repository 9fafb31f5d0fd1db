package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/moby/moby/client"

	"github.com/requorum/requorum/agent/runtime/detect"
)

// Detector looks for containers that run etcd.
type Detector struct {
	Dir string // keeps what an agent has stopped; empty for DefaultDir
}

var _ detect.Detector = Detector{}

// Kind returns "docker".
func (Detector) Kind() string { return Kind }

// Detect looks at every container. One counts that runs a program named etcd, and that runs, would be started by the
// engine, or is kept stopped by an agent. Of Kubernetes' pods none counts: a kubelet starts those.
func (d Detector) Detect(ctx context.Context) (detect.Found, error) {
	r, err := New(Options{Dir: d.Dir})
	if err != nil {
		return detect.Found{}, err
	}
	var found detect.Found
	err = r.connected(ctx, func(engine *client.Client) error {
		names, err := containers(ctx, engine)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := r.consider(ctx, engine, name, &found); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, ErrNoEngine) && errors.Is(err, fs.ErrNotExist) {
		return detect.Found{Looked: []string{"there is no Docker engine"}}, nil
	}
	if err == nil && len(found.Candidates) == 0 && len(found.Looked) == 0 {
		found.Looked = []string{"no container runs a program named etcd"}
	}
	return found, err
}

// podLabel is set on the containers of Kubernetes' pods.
const podLabel = "io.kubernetes.pod.name"

// containers returns the names of the containers to look at, sorted.
func containers(ctx context.Context, engine *client.Client) ([]string, error) {
	list, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list the containers of the Docker engine: %w", err)
	}
	var names []string
	for _, c := range list.Items {
		if _, pod := c.Labels[podLabel]; pod || len(c.Names) == 0 || c.Labels[versionLabel] != "" {
			continue
		}
		names = append(names, strings.TrimPrefix(c.Names[0], "/"))
	}
	slices.Sort(names)
	return names, nil
}

// consider adds a container to what was found if it runs etcd.
func (r *Runtime) consider(ctx context.Context, engine *client.Client, name string, found *detect.Found) error {
	c, err := load(ctx, engine, name)
	if errors.Is(err, ErrNoContainer) {
		return nil // it went meanwhile
	}
	if err != nil {
		return err
	}
	if !c.runsEtcd() {
		return nil
	}
	h, err := r.readHold(name)
	if err != nil {
		return err
	}
	if h.State == "" && !c.isWanted() {
		found.Looked = append(found.Looked, fmt.Sprintf("container %s neither runs nor would the engine start it; if it is to be taken, run docker start %s", name, name))
		return nil
	}
	candidate, err := r.describe(ctx, engine, c)
	found.Candidates = append(found.Candidates, candidate)
	return err
}

func (r *Runtime) describe(ctx context.Context, engine *client.Client, c *container) (detect.Candidate, error) {
	found := detect.Candidate{Place: c.name, Config: map[string]any{"container": c.name}}
	var err error
	if found.ControlPlane, err = r.controlPlane(ctx, engine); err != nil {
		return found, err
	}
	if found.Member, err = r.inspect(ctx, engine, c); err != nil {
		found.Missing = []string{err.Error()}
		return found, nil //nolint:nilerr // it is said what is missing
	}
	found.Missing = detect.Missing(found.Member)
	return found, nil
}
