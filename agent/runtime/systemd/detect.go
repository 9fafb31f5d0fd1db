package systemd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/requorum/requorum/agent/runtime/detect"
)

// Detector looks for units that run etcd.
type Detector struct{}

var _ detect.Detector = Detector{}

// Kind returns "systemd".
func (Detector) Kind() string { return Kind }

// Detect looks at every service that is loaded or whose name has "etcd" in it. One counts that runs a program named
// etcd, and that runs, comes up at boot, or is kept stopped by an agent.
func (Detector) Detect(ctx context.Context) (detect.Found, error) {
	var found detect.Found
	err := connected(ctx, func(conn *dbus.Conn) error {
		names, err := services(ctx, conn)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := consider(ctx, conn, name, &found); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, ErrNotInit) {
		return detect.Found{Looked: []string{err.Error()}}, nil
	}
	if len(found.Candidates) == 0 && len(found.Looked) == 0 {
		found.Looked = []string{"no unit runs a program named etcd"}
	}
	return found, err
}

// services returns the names of the services to look at, sorted.
func services(ctx context.Context, conn *dbus.Conn) ([]string, error) {
	loaded, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{"*.service"})
	if err != nil {
		return nil, fmt.Errorf("list the units of systemd: %w", err)
	}
	files, err := conn.ListUnitFilesByPatternsContext(ctx, nil, []string{"*etcd*.service"})
	if err != nil {
		return nil, fmt.Errorf("list the unit files of systemd: %w", err)
	}
	var names []string
	for _, u := range loaded {
		if u.LoadState == "loaded" {
			names = append(names, u.Name)
		}
	}
	for _, f := range files {
		name := filepath.Base(f.Path)
		if !strings.Contains(name, "@.") { // a template is nothing that runs
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// consider adds a unit to what was found if it runs etcd.
func consider(ctx context.Context, conn *dbus.Conn, name string, found *detect.Found) error {
	u, err := load(ctx, conn, name)
	if errors.Is(err, ErrNoUnit) {
		return nil
	}
	if err != nil {
		if strings.Contains(name, "etcd") {
			found.Looked = append(found.Looked, err.Error())
		}
		return nil //nolint:nilerr // a unit that systemd cannot load runs nothing, and that was said
	}
	if u.name != name || !strings.HasPrefix(filepath.Base(u.path), "etcd") { // an alias is seen by its own name too
		return nil
	}
	h, err := u.readHold()
	if err != nil {
		return err
	}
	if h == free && !u.isWanted() {
		found.Looked = append(found.Looked, fmt.Sprintf("%s neither runs nor comes up at boot; if it is to be taken, run systemctl enable %s", u.name, u.name))
		return nil
	}
	candidate, err := describe(ctx, conn, u)
	found.Candidates = append(found.Candidates, candidate)
	return err
}

func describe(ctx context.Context, conn *dbus.Conn, u *unit) (detect.Candidate, error) {
	c := detect.Candidate{Place: u.name, Config: map[string]any{"unit": u.name}}
	r, err := New(Options{Unit: u.name})
	if err != nil {
		return c, err
	}
	if c.ControlPlane, err = r.controlPlane(ctx, conn); err != nil {
		return c, err
	}
	if c.Member, err = r.inspect(ctx, u); err != nil {
		c.Missing = []string{err.Error()}
		return c, nil //nolint:nilerr // it is said what is missing
	}
	c.Missing = detect.Missing(c.Member)
	return c, nil
}
