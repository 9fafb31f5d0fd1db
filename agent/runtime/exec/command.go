package exec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	outputBytes = 8 << 10
	outputLines = 12
)

// CommandError says how a command failed.
type CommandError struct {
	What     string // stop, start, status, …
	Command  []string
	ExitCode int // -1 if it did not exit by itself
	Err      error
	Output   string // last lines
}

func (e *CommandError) Error() string {
	text := fmt.Sprintf("%s command %q: %v", e.What, e.Command, e.Err)
	if e.Output != "" {
		text += "; its last lines:\n" + e.Output
	}
	return text
}

// Unwrap returns why the command ended: its exit, or the end of the context.
func (e *CommandError) Unwrap() error { return e.Err }

// run runs a command to its end and returns the last lines of its output. When ctx ends or the command
// takes too long, it is killed with all its process group.
func (r *Runtime) run(ctx context.Context, what string, command []string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.o.CommandTimeout, fmt.Errorf("it took longer than %s and was killed", r.o.CommandTimeout))
	defer cancel()
	out, err := outputFile()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "REQUORUM_MEMBER="+r.o.Member.Name, "REQUORUM_DATA_DIR="+r.o.Member.DataDir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	r.o.Log.Debug("running command", "what", what, "command", command)
	err = cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	output, readErr := lastLines(out)
	if readErr = errors.Join(readErr, out.Close()); readErr != nil {
		return "", errors.Join(err, fmt.Errorf("read output of %s command: %w", what, readErr))
	}
	if err == nil {
		return output, nil
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return output, &CommandError{What: what, Command: command, ExitCode: code, Err: err, Output: output}
}

// outputFile returns a file without a name. A pipe would not do: a process that the command leaves
// behind would keep it open, and die of writing to it once nobody reads.
func outputFile() (*os.File, error) {
	f, err := os.CreateTemp("", "requorum-command-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func lastLines(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	begin := max(info.Size()-outputBytes, 0)
	data, err := io.ReadAll(io.NewSectionReader(f, begin, outputBytes))
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(len(lines)-outputLines, 0):], "\n"), nil
}
