package process

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// Start starts etcd unless it runs. etcd stays wanted: Run starts it again when it ends.
func (r *Runtime) Start(ctx context.Context) error {
	return r.start(ctx, desired{State: running})
}

// StartJoining starts etcd as a member that joins initialCluster. It fails with etcdconf.ErrConfigFile
// if etcd is configured by a file.
func (r *Runtime) StartJoining(ctx context.Context, initialCluster string) error {
	if _, _, err := etcdconf.Joining(r.o.Command[1:], r.o.Env, initialCluster); err != nil {
		return fmt.Errorf("start etcd as a joining member: %w", err)
	}
	return r.start(ctx, desired{State: running, Join: initialCluster})
}

func (r *Runtime) start(ctx context.Context, d desired) error {
	defer r.wake()
	return r.exclusively(ctx, func() error {
		if err := r.writeDesired(d); err != nil {
			return err
		}
		rec, err := r.find()
		if err != nil {
			return err
		}
		if rec != nil {
			rec.Restarts = 0 // whoever starts it now asks about this process
			return r.writeRecord(*rec)
		}
		return r.spawn(d, 0)
	})
}

// spawn starts etcd's process in a session of its own and writes down which one it is.
func (r *Runtime) spawn(d desired, restarts int) error {
	args, env := r.o.Command[1:], r.o.Env
	if d.Join != "" {
		var err error
		if args, env, err = etcdconf.Joining(args, env, d.Join); err != nil {
			return err
		}
	}
	log, offset, err := r.openLog()
	if err != nil {
		return fmt.Errorf("open etcd's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // etcd has its own descriptor
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	p, err := os.StartProcess(r.o.Command[0], append([]string{r.o.Command[0]}, args...), &os.ProcAttr{
		Dir:   workingDir,
		Env:   append(append([]string{}, env...), dirVariable+"="+r.o.Dir),
		Files: []*os.File{null, log, log},
		Sys:   r.attributes(),
	})
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	return r.note(p, restarts, offset)
}

// note writes the process's identity down. The process is released: it is waited for by PID, whether
// this agent or an earlier one started it.
func (r *Runtime) note(p *os.Process, restarts int, offset int64) error {
	pid := p.Pid
	start, _, err := processStart(pid) // a zombie counts: its log says why it ended
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	if err := p.Release(); err != nil {
		return err
	}
	r.o.Log.Info("started etcd", "pid", pid, "restarts", restarts)
	return r.writeRecord(record{PID: pid, StartTime: start, BootID: boot, Restarts: restarts, LogOffset: offset})
}

func (r *Runtime) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if r.o.UID != 0 || r.o.GID != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(r.o.UID), Gid: uint32(r.o.GID)}
	}
	return attr
}
