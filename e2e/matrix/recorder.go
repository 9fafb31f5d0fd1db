package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder hears what goes wrong in a cell, or in the life of a cluster.
type recorder struct {
	testing.TB // for its private method; nothing of it is called

	name     string
	mu       sync.Mutex
	failures []string
	logs     []string
	cleanups []func()
}

func (r *recorder) Helper()                        {}
func (r *recorder) Name() string                   { return r.name }
func (r *recorder) Error(args ...any)              { r.note(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, a ...any) { r.note(fmt.Sprintf(format, a...)) }
func (r *recorder) Fatal(args ...any)              { r.note(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(format string, a ...any) {
	r.note(fmt.Sprintf(format, a...))
	runtime.Goexit()
}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(format string, args ...any) {
	r.logs = append(r.logs, fmt.Sprintf(format, args...))
}

// TempDir makes a directory that lasts until finish.
func (r *recorder) TempDir() string {
	dir, err := os.MkdirTemp("", "requorum-matrix-")
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			r.Error(err)
		}
	})
	return dir
}

func (r *recorder) note(failure string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, strings.TrimSpace(failure))
}

// Failed tells whether anything went wrong.
func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failures) > 0
}

// during calls f, which may end early by Fatal, and returns when it has ended.
func (r *recorder) during(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// listen makes somebody else hear of what goes wrong.
func (b *bed) listen(r *recorder) {
	b.hears = r
	b.On(r)
}

// finish undoes what was set up, the last first.
func (r *recorder) finish() {
	for _, f := range slices.Backward(r.cleanups) {
		r.during(f)
	}
	r.cleanups = nil
}
