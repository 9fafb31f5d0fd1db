package staticpod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Detector looks for manifests of static pods that run etcd.
type Detector struct {
	Dir      string // that the kubelet watches; empty for kubeadm's
	Endpoint string // of the container runtime; empty to find it out
	Kubelet  string // its unit; empty for DefaultKubelet
}

var _ detect.Detector = Detector{}

// Kind returns "staticpod".
func (Detector) Kind() string { return Kind }

// Detect looks at every manifest that the kubelet sees or that an agent keeps. One counts whose command is etcd.
func (d Detector) Detect(ctx context.Context) (detect.Found, error) {
	if d.Dir == "" {
		d.Dir = filepath.Dir(DefaultManifest)
	}
	var found detect.Found
	names, err := d.manifests()
	if err != nil {
		return found, err
	}
	for _, name := range names {
		d.consider(ctx, name, &found)
	}
	if len(found.Candidates) == 0 && len(found.Looked) == 0 {
		found.Looked = []string{fmt.Sprintf("no manifest in %s runs etcd", d.Dir)}
	}
	return found, nil
}

// manifests returns the names of the manifests, sorted.
func (d Detector) manifests() ([]string, error) {
	r, err := d.open("etcd.yaml")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, dir := range []string{d.Dir, r.o.HeldDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			name := strings.TrimSuffix(e.Name(), ".aside")
			if e.Type().IsRegular() && !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (d Detector) open(name string) (*Runtime, error) {
	return New(Options{Manifest: filepath.Join(d.Dir, name), Endpoint: d.Endpoint, Kubelet: d.Kubelet})
}

// consider adds a manifest to what was found if it runs etcd.
func (d Detector) consider(ctx context.Context, name string, found *detect.Found) {
	r, err := d.open(name)
	if err != nil {
		return // one of the control plane's names: it is not etcd's
	}
	p, _, err := r.read(name)
	if err != nil {
		if strings.Contains(name, "etcd") {
			found.Looked = append(found.Looked, err.Error())
		}
		return // what is no manifest of a pod runs nothing
	}
	if p.etcdIndex() < 0 {
		if strings.Contains(name, "etcd") {
			found.Looked = append(found.Looked, p.errNoEtcd().Error())
		}
		return
	}
	found.Candidates = append(found.Candidates, r.describe(ctx))
}

func (r *Runtime) describe(ctx context.Context) detect.Candidate {
	c := detect.Candidate{Place: r.o.Manifest, Config: map[string]any{"manifest": r.o.Manifest}, ControlPlane: r.ControlPlane()}
	var err error
	if c.Member, err = r.Inspect(ctx); err != nil {
		c.Missing = []string{err.Error()}
	} else {
		c.Missing = detect.Missing(c.Member)
	}
	if err := r.checkHeldDir(); err != nil {
		c.Missing = append(c.Missing, err.Error())
	}
	if r.o.Kubelet == NoKubelet {
		return c
	}
	if err := systemd.Check(ctx, r.o.Kubelet); err != nil {
		c.Missing = append(c.Missing, fmt.Sprintf("the kubelet cannot be restarted after a restore: %v; set kubelet_unit to its unit, or to none", err))
	}
	return c
}
