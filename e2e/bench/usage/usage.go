// Package usage watches the memory of processes from outside.
package usage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const every = 5 * time.Millisecond

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Anon int64 // its own: heap, stacks
	RSS  int64 // with the pages of files that it has mapped, which the kernel may take back at any time
}

// Max returns the larger of each.
func (m Memory) Max(o Memory) Memory {
	return Memory{Anon: max(m.Anon, o.Anon), RSS: max(m.RSS, o.RSS)}
}

// Above returns how much more it is than idle.
func (m Memory) Above(idle Memory) Memory {
	return Memory{Anon: m.Anon - idle.Anon, RSS: m.RSS - idle.RSS}
}

// Of looks at a process once.
func Of(pid int) (Memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	for line := range bytes.Lines(data) {
		name, value, _ := strings.Cut(string(line), ":")
		into := map[string]*int64{"RssAnon": &m.Anon, "VmRSS": &m.RSS}[name]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		*into = kib << 10
	}
	return m, nil
}

// ticks is how many of the kernel's ticks make a second in /proc, on every architecture that Go knows.
const ticks = 100

// CPU returns how long a process has computed so far.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses; user and system time are the 14th and the 15th of all.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system = 11, 12
	var sum int64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("time of process %d: %w", pid, err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// Watch notes the memory of processes all the time.
type Watch struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	noted  map[string][]sample
	errs   map[string]error
	mu     sync.Mutex
}

type sample struct {
	at time.Time
	Memory
}

// Start watches processes, by name and PID, until Stop.
func Start(ctx context.Context, pids map[string]int) *Watch {
	w := &Watch{noted: map[string][]sample{}, errs: map[string]error{}}
	ctx, w.cancel = context.WithCancel(ctx)
	for name, pid := range pids {
		w.done.Go(func() { w.watch(ctx, name, pid) })
	}
	return w
}

func (w *Watch) watch(ctx context.Context, name string, pid int) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		m, err := Of(pid)
		w.mu.Lock()
		w.noted[name], w.errs[name] = append(w.noted[name], sample{time.Now(), m}), err
		w.mu.Unlock()
		if err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Stop ends the watch. It returns an error if a process could not be watched to the end.
func (w *Watch) Stop() error {
	w.cancel()
	w.done.Wait()
	for name, err := range w.errs {
		if err != nil {
			return fmt.Errorf("memory of %s: %w", name, err)
		}
	}
	return nil
}

// Peak returns the most that a process had between two times, and false if it was not looked at then.
func (w *Watch) Peak(name string, from, to time.Time) (peak Memory, looked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.noted[name] {
		if !s.at.Before(from) && !s.at.After(to) {
			peak, looked = peak.Max(s.Memory), true
		}
	}
	return peak, looked
}
