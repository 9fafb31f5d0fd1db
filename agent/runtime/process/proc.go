package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dirVariable is in etcd's environment, so that a process whose identity could not be written down
// before the agent died is found again.
const dirVariable = "REQUORUM_PROCESS_DIR"

// find returns the record of the etcd process if it lives, otherwise nil.
func (r *Runtime) find() (*record, error) {
	rec, err := r.readRecord()
	if err != nil {
		return nil, err
	}
	if rec != nil {
		lives, err := rec.lives()
		if lives {
			return rec, err
		}
		if err != nil {
			return nil, err
		}
	}
	return r.findUnrecorded()
}

// lives tells whether the very process of the record lives. It reaps it if it is a dead child of ours.
func (rec *record) lives() (bool, error) {
	boot, err := bootID()
	if err != nil || boot != rec.BootID {
		return false, err
	}
	start, zombie, err := processStart(rec.PID)
	if err != nil || start != rec.StartTime {
		return false, err
	}
	if !zombie {
		return true, nil
	}
	_, err = unix.Wait4(rec.PID, nil, unix.WNOHANG, nil)
	if err != nil && !errors.Is(err, unix.ECHILD) && !errors.Is(err, unix.EINTR) { // ECHILD: another's child, reaped by that one
		return false, fmt.Errorf("reap etcd's process %d: %w", rec.PID, err)
	}
	return false, nil
}

// findUnrecorded looks for an etcd that an agent started and could not write down.
func (r *Runtime) findUnrecorded() (*record, error) {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	ours := []byte(dirVariable + "=" + r.o.Dir)
	for _, path := range environs {
		env, err := os.ReadFile(path)
		if err != nil {
			continue // it ended, or belongs to a user whose processes etcd is not among
		}
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			if !bytes.Equal(kv, ours) {
				continue
			}
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil {
				return nil, err
			}
			if rec, err := identify(pid); rec != nil || err != nil {
				return rec, err
			}
		}
	}
	return nil, nil
}

// identify returns the record of a living process, nil if it does not live.
func identify(pid int) (*record, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	start, zombie, err := processStart(pid)
	if err != nil || zombie || start == 0 {
		return nil, err
	}
	return &record{PID: pid, StartTime: start, BootID: boot}, nil
}

// processStart returns when a process started, in ticks after boot, and whether it is a zombie. Of a
// process that is not there it returns 0.
func processStart(pid int) (ticks uint64, zombie bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// The second field is the name in parentheses, which may hold anything, parentheses included.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const state, startTime = 0, 19 // the third and the 22nd of all
	if len(fields) <= startTime {
		return 0, false, fmt.Errorf("/proc/%d/stat is not understood: %q", pid, stat)
	}
	ticks, err = strconv.ParseUint(fields[startTime], 10, 64)
	return ticks, fields[state] == "Z" || fields[state] == "X", err
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}

// handle refers to one process, never to another one that gets its PID. Kernels before 5.3 have no such
// thing; there the identity is compared before every use.
type handle struct {
	rec record
	fd  int // pidfd, -1 without
}

// open returns nil if the process does not live any more.
func (rec *record) open() (*handle, error) {
	fd, err := unix.PidfdOpen(rec.PID, 0)
	switch {
	case err == nil:
	case errors.Is(err, unix.ESRCH):
		return nil, nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // an old kernel, or a container that does not let it through
		fd = -1
	default:
		return nil, fmt.Errorf("open etcd's process %d: %w", rec.PID, err)
	}
	h := &handle{rec: *rec, fd: fd}
	lives, err := rec.lives() // now that it cannot be recycled unnoticed
	if err != nil || !lives {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *handle) close() error {
	if h.fd < 0 {
		return nil
	}
	return unix.Close(h.fd)
}

// signal sends a signal; a process that is gone is no error.
func (h *handle) signal(sig unix.Signal) error {
	var err error
	if h.fd >= 0 {
		err = unix.PidfdSendSignal(h.fd, sig, nil, 0)
	} else if lives, lerr := h.rec.lives(); lives {
		err = unix.Kill(h.rec.PID, sig)
	} else {
		err = lerr
	}
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("send %s to etcd's process %d: %w", unix.SignalName(sig), h.rec.PID, err)
}

// kill kills the process and what it started in its own session. The group goes first: as long as the
// process lives, its ID cannot mean another group.
func (h *handle) kill() error {
	if lives, err := h.rec.lives(); !lives {
		return err
	}
	if err := unix.Kill(-h.rec.PID, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill etcd's process group %d: %w", h.rec.PID, err)
	}
	return h.signal(unix.SIGKILL)
}

// endInterval is how often a process is looked at where there is no pidfd.
const endInterval = 100 * time.Millisecond

// wait returns nil once the process has ended, and has been reaped if it is a child of ours, or the
// cause of ctx's end.
func (h *handle) wait(ctx context.Context) error {
	if h.fd >= 0 {
		if err := h.poll(ctx); err != nil {
			return err
		}
		_, err := h.rec.lives() // reaps
		return err
	}
	look := time.NewTicker(endInterval)
	defer look.Stop()
	for {
		if lives, err := h.rec.lives(); !lives {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// poll waits on the pidfd, and on an eventfd that the end of ctx writes to.
func (h *handle) poll(ctx context.Context) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("wait for etcd's end: %w", err)
	}
	written := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		_, err := unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		written <- err
	})
	err = pollEither(h.fd, wake)
	if !stop() { // it has begun; the descriptor must outlive its write
		err = errors.Join(err, <-written)
	}
	if err = errors.Join(err, unix.Close(wake)); err != nil {
		return fmt.Errorf("wait for etcd's end: %w", err)
	}
	if lives, err := h.rec.lives(); !lives {
		return err
	}
	return context.Cause(ctx)
}

func pollEither(a, b int) error {
	fds := []unix.PollFd{{Fd: int32(a), Events: unix.POLLIN}, {Fd: int32(b), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return err
		}
	}
}
