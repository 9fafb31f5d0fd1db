package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// member is an etcd process as a script runs it: the same command, data and ports as under an agent.
type member struct {
	name                        string
	command                     []string
	dataDir, clientURL, peerURL string
	initialCluster              string
	log                         string

	cmd *exec.Cmd // nil while it does not run
}

func newMember(name string, command []string, log string) *member {
	return &member{
		name: name, command: command, log: log,
		dataDir: flagOf(command, "data-dir"), clientURL: flagOf(command, "advertise-client-urls"),
		peerURL: flagOf(command, "initial-advertise-peer-urls"), initialCluster: flagOf(command, "initial-cluster"),
	}
}

func (m *member) start() error {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(m.command[0], m.command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program, which stops it in order
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start etcd %s: %w", m.name, err)
	}
	m.cmd = cmd
	return nil
}

// stop asks the process to end and waits until it has.
func (m *member) stop() error { return m.end(syscall.SIGTERM) }

// kill ends the process at once.
func (m *member) kill() error { return m.end(syscall.SIGKILL) }

func (m *member) end(sig syscall.Signal) error {
	if m.cmd == nil {
		return nil
	}
	if err := m.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop etcd %s: %w", m.name, err)
	}
	err := m.cmd.Wait()
	m.cmd = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) { // it says that the signal ended it
		return nil
	}
	return err
}
