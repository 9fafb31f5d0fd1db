//go:build faultinject

package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
)

// Enabled tells whether this build has fault points.
const Enabled = true

var (
	declaredMu sync.Mutex
	declared   = map[string]string{} // what each point means

	validName = regexp.MustCompile(`^[A-Za-z0-9.-]+(/[A-Za-z0-9.-]+)*$`)
)

// Declare registers a point, with when the process comes there in a few words, and returns its name. It is
// for package variables: it panics on a name that is already taken or has anything but letters, digits, dots,
// hyphens and separating slashes in it.
func Declare(name, meaning string) string {
	if !validName.MatchString(name) {
		panic(fmt.Sprintf("fault point %q: want letters, digits, dots and hyphens, separated by slashes", name))
	}
	declaredMu.Lock()
	defer declaredMu.Unlock()
	if _, taken := declared[name]; taken {
		panic(fmt.Sprintf("fault point %q is declared twice", name))
	}
	declared[name] = meaning
	return name
}

// Names lists the points that the packages in this binary declared, sorted.
func Names() []string {
	declaredMu.Lock()
	defer declaredMu.Unlock()
	return slices.Sorted(maps.Keys(declared))
}

// Points lists the same with their meanings.
func Points() []Point {
	declaredMu.Lock()
	defer declaredMu.Unlock()
	points := make([]Point, 0, len(declared))
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		points = append(points, Point{Name: name, Meaning: declared[name]})
	}
	return points
}

type taskKey struct{}

// WithTask returns a context in which a firing is traced with the ID of the task that is being done.
func WithTask(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, taskKey{}, id)
}

type hookKey struct{}

// WithHook returns a context in which hook, instead of the files, says what happens at every point. A test that
// runs several controllers and agents in one process gives each a hook of its own.
func WithHook(ctx context.Context, hook func(ctx context.Context, point string) error) context.Context {
	return context.WithValue(ctx, hookKey{}, hook)
}

// At does what the point is armed for, and nothing if it is not. It returns the error that was asked for, the
// cause of ctx's end if that ended a hang or a delay, or an error that says why the point's file can't be used.
func At(ctx context.Context, name string) error {
	if hook, ok := ctx.Value(hookKey{}).(func(context.Context, string) error); ok {
		return hook(ctx, name)
	}
	dir := os.Getenv(DirEnv)
	if dir == "" {
		return nil
	}
	if !isDeclared(name) {
		return fmt.Errorf("fault point %q was never declared: make it a package variable with fault.Declare", name)
	}
	node := os.Getenv(NodeEnv)
	for _, path := range candidates(dir, name, node) {
		fired, err := take(ctx, path, name, node)
		if fired || err != nil {
			return err
		}
	}
	return nil
}

func isDeclared(name string) bool {
	declaredMu.Lock()
	defer declaredMu.Unlock()
	_, known := declared[name]
	return known
}

// candidates are the files that may arm the point here; the node's own goes first.
func candidates(dir, name, node string) []string {
	everywhere := filepath.Join(dir, FileName(name, ""))
	if node == "" {
		return []string{everywhere}
	}
	return []string{filepath.Join(dir, FileName(name, node)), everywhere}
}

// take fires the point if the file at path arms it and no other process was first to a "once".
func take(ctx context.Context, path, name, node string) (fired bool, err error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("fault point %s: %w", name, err)
	}
	act, err := parseAction(string(content))
	if err != nil {
		return false, fmt.Errorf("fault point %s: %s: %w", name, path, err)
	}
	if act.once {
		won, err := claim(path)
		if !won || err != nil {
			return false, err
		}
	}
	task, _ := ctx.Value(taskKey{}).(string)
	if err := trace(path, Firing{Point: name, Node: node, Task: task, Action: act.verb}); err != nil {
		return false, err
	}
	return true, act.run(ctx, path, name)
}
