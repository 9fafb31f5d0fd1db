package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/requorum/requorum/internal/durable"
)

const pollEvery = 50 * time.Millisecond

// Process is one of the cluster's processes. It can be started again after it has ended.
type Process struct {
	Name   string
	Binary string
	Args   []string
	Env    []string                       // besides this process's
	Dir    string                         // its log goes to <Dir>/<Name>.log
	Launch func(start func() error) error // calls start; may be nil

	cmd  *exec.Cmd
	done chan struct{}
	err  error // set when done is closed
}

// Log returns the path of its log.
func (p *Process) Log() string { return filepath.Join(p.Dir, p.Name+".log") }

// Start starts the process, unless it runs.
func (p *Process) Start() error {
	if p.Running() {
		return nil
	}
	if err := durable.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Binary, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us alone; we stop it in order
	start := cmd.Start
	if p.Launch != nil {
		start = func() error { return p.Launch(cmd.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return nil
}

// Running tells whether the process runs.
func (p *Process) Running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Kill ends the process at once, as a crash would, and waits for its end.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Stop asks the process to end and waits until it has.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) error {
	if !p.Running() {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the process's ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// waitFor calls ready until it returns nil, ctx ends or the process has ended.
func waitFor(ctx context.Context, p *Process, ready func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-p.Done():
			return fmt.Errorf("%s has ended: %w; its log is %s", p.Name, p.err, p.Log())
		case <-ticker.C:
		}
	}
}
