//go:build faultinject

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// hangPoll is how often a hang looks whether its file is still there.
const hangPoll = 20 * time.Millisecond

// action is the parsed content of an armed point's file.
type action struct {
	verb     string
	once     bool
	argument string
	delay    time.Duration
}

// parseAction reads ACTION ["once"] [ARGUMENT].
func parseAction(content string) (action, error) {
	verb, rest, _ := strings.Cut(strings.TrimSpace(content), " ")
	act := action{verb: verb, argument: strings.TrimSpace(rest)}
	if first, rest, _ := strings.Cut(act.argument, " "); first == "once" {
		act.once, act.argument = true, strings.TrimSpace(rest)
	}
	return act, act.check()
}

// check completes the action and refuses what can't be carried out.
func (a *action) check() (err error) {
	switch a.verb {
	case "error":
		if a.argument == "" {
			return errors.New("action error wants a message")
		}
		return nil
	case "delay":
		if a.delay, err = time.ParseDuration(a.argument); err != nil {
			return fmt.Errorf("action delay: %w", err)
		}
		return nil
	case "kill", "hang", "enospc", "twice":
		if a.argument != "" {
			return fmt.Errorf("action %s takes no argument, got %q", a.verb, a.argument)
		}
		return nil
	default:
		return fmt.Errorf("unknown action %q: want error, enospc, kill, hang, delay or twice", a.verb)
	}
}

// claim takes the file at path away from every other process, and tells whether this one was first: of several
// that remove a file only one succeeds.
func claim(path string) (won bool, err error) {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("claim fault: %w", err)
	}
	return true, nil
}

// trace appends a Firing in a single write, so that lines of several processes do not mix.
func trace(path string, firing Firing) error {
	firing.PID, firing.Time = os.Getpid(), time.Now()
	line, err := json.Marshal(firing)
	if err != nil {
		return fmt.Errorf("trace fault %s: %w", firing.Point, err)
	}
	f, err := os.OpenFile(path+FiredSuffix, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("trace fault: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// run carries the action out.
func (a action) run(ctx context.Context, path, name string) error {
	switch a.verb {
	case "kill":
		return killSelf()
	case "hang":
		if a.once {
			path += FiredSuffix // the armed file is gone already
		}
		return hang(ctx, path)
	case "delay":
		return wait(ctx, a.delay)
	case "twice":
		return ErrTwice
	case "enospc":
		return fmt.Errorf("injected at %s: %w", name, syscall.ENOSPC)
	default:
		return &InjectedError{Point: name, Message: a.argument}
	}
}

// killSelf does not come back, unless the kernel refuses.
func killSelf() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill this process: %w", err)
	}
	select {} // not one more instruction of the caller may run
}

func hang(ctx context.Context, path string) error {
	tick := time.NewTicker(hangPoll)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
