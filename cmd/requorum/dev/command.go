package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

const startWithin = 2 * time.Minute

// Command returns "requorum dev".
func Command() *cobra.Command {
	o := Options{}
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine to try things out",
		Long: `Run a controller and agents on the loopback address, each agent with a real
etcd member, all from this one binary. It prints what to type next, and stops
everything on Ctrl-C. Without --dir everything is removed at the end; with it,
the next start goes on where this one ended.`,
		Example: "  requorum dev\n  requorum dev --dir ~/requorum-dev --members 5",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return &cli.UsageError{Err: err}
			}
			return run(c.Context(), o, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "`DIR` to keep everything in")
	c.Flags().StringVar(&o.Name, "cluster", "dev", "`NAME` of the cluster")
	c.Flags().IntVar(&o.Members, "members", 3, "`NUMBER` of etcd members, in a new directory")
	return c
}

// mostMembers is what one machine is asked for: more than any cluster of etcd has.
const mostMembers = 9

func (o Options) check() error {
	if o.Members < 1 || o.Members > mostMembers {
		return fmt.Errorf("--members %d: give a number from 1 to %d", o.Members, mostMembers)
	}
	return names.Check("cluster", o.Name)
}

func run(ctx context.Context, o Options, out io.Writer) (err error) {
	if o.Binary, err = os.Executable(); err != nil {
		return err
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "requorum-dev-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	lock, err := take(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	fmt.Fprintf(out, "Starting a controller and %d etcd members in %s …\n", o.Members, o.Dir)
	starting, cancel := context.WithTimeoutCause(ctx, startWithin, errors.New("the cluster did not come up in time"))
	defer cancel()
	cluster, err := Start(starting, o)
	if err != nil {
		return err
	}
	fmt.Fprint(out, cluster.hints())
	select {
	case <-ctx.Done():
	case <-cluster.Controller.Done():
		err = fmt.Errorf("the controller has ended; its log is %s", cluster.Controller.Log())
	}
	fmt.Fprintln(out, "Stopping …")
	return errors.Join(err, cluster.Stop())
}

// hints says what to type next.
func (c *Cluster) hints() string {
	var endpoints []string
	for _, n := range c.Nodes {
		endpoints = append(endpoints, strings.TrimPrefix(n.ClientURL, "http://"))
	}
	return fmt.Sprintf(`Ready. In another terminal:

%s  export REQUORUM_CONFIG=%s
  requorum cluster status
  requorum snapshot save --name first
  requorum restore --snapshot first --plan
  requorum restore --snapshot first

etcd answers at %s. Logs are in %s. Ctrl-C stops everything.
`, onPath(c.Binary), c.AdminConfig(), strings.Join(endpoints, ","), c.Dir)
}

// take keeps other processes from running a cluster in the directory, until what it returns is closed.
func take(dir string) (*os.File, error) {
	if err := durable.OwnDir(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another requorum dev runs in %s: %w; end that one, or give another --dir", dir, err), lock.Close())
	}
	return lock, nil
}

// onPath is the line that makes the commands after it find this binary; empty where they do already.
func onPath(binary string) string {
	found, err := exec.LookPath("requorum")
	if err == nil {
		found, err = filepath.EvalSymlinks(found)
	}
	if err == nil && found == binary {
		return ""
	}
	return fmt.Sprintf("  export PATH=%s:$PATH\n", filepath.Dir(binary))
}
