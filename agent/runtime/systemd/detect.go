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

// Detect finds units that run etcd.
func (Detector) Detect(ctx context.Context) (detect.Found, error) { return Find(ctx, "etcd", describe) }

// Find looks at every service that is loaded or that has program in its name. One counts that runs a program whose name
// begins with program, and that runs, comes up at boot, or is kept stopped by an agent. For each of them add is called,
// which puts it among the candidates or says why it is none.
func Find(ctx context.Context, program string, add func(ctx context.Context, unit string, found *detect.Found) error) (detect.Found, error) {
	var found detect.Found
	err := connected(ctx, func(conn *dbus.Conn) error {
		names, err := services(ctx, conn, program)
		if err != nil {
			return err
		}
		for _, name := range names {
			counts, err := consider(ctx, conn, program, name, &found)
			if err != nil {
				return err
			}
			if !counts {
				continue
			}
			if err := add(ctx, name, &found); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, ErrNotInit) {
		return detect.Found{Looked: []string{err.Error()}}, nil
	}
	if len(found.Candidates) == 0 && len(found.Looked) == 0 {
		found.Looked = []string{"no unit runs a program named " + program}
	}
	return found, err
}

// services returns the names of the services to look at, sorted.
func services(ctx context.Context, conn *dbus.Conn, program string) ([]string, error) {
	loaded, err := conn.ListUnitsByPatternsContext(ctx, nil, []string{"*.service"})
	if err != nil {
		return nil, fmt.Errorf("list the units of systemd: %w", err)
	}
	files, err := conn.ListUnitFilesByPatternsContext(ctx, nil, []string{"*" + program + "*.service"})
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

// consider tells whether a unit counts. It says so where one that runs the program does not.
func consider(ctx context.Context, conn *dbus.Conn, program, name string, found *detect.Found) (bool, error) {
	u, err := load(ctx, conn, name)
	if errors.Is(err, ErrNoUnit) {
		return false, nil
	}
	if err != nil {
		if strings.Contains(name, program) {
			found.Looked = append(found.Looked, err.Error())
		}
		return false, nil //nolint:nilerr // a unit that systemd cannot load runs nothing, and that was said
	}
	if u.name != name || !strings.HasPrefix(filepath.Base(u.path), program) { // an alias is seen by its own name too
		return false, nil
	}
	h, err := u.readHold()
	if err != nil {
		return false, err
	}
	if h == free && !u.isWanted() {
		found.Looked = append(found.Looked, fmt.Sprintf("%s neither runs nor comes up at boot; if it is to be taken, run systemctl enable %s", u.name, u.name))
		return false, nil
	}
	return true, nil
}

func describe(ctx context.Context, unit string, found *detect.Found) error {
	c := detect.Candidate{Place: unit, Config: map[string]any{"unit": unit}}
	r, err := New(Options{Unit: unit})
	if err != nil {
		return err
	}
	err = connected(ctx, func(conn *dbus.Conn) (err error) {
		c.ControlPlane, err = r.controlPlane(ctx, conn)
		return err
	})
	if err != nil {
		return err
	}
	if c.Member, err = r.Inspect(ctx); err != nil {
		c.Missing = []string{err.Error()}
	} else {
		c.Missing = detect.Missing(c.Member)
	}
	found.Candidates = append(found.Candidates, c)
	return nil
}
