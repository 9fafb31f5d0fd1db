package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/dev"
)

// seedName is the snapshot that every restore is of.
const seedName = "seed"

// quota is enough for the largest data and what is written besides; every member here gets it.
const quota = 32 << 30

// Bed is a cluster of three members with data, for the sections that need one. Either the agents run its etcd
// processes, or this program does, as a person's script would: TakeOver and HandBack change between the two.
type Bed struct {
	Size    Size
	Cluster *dev.Cluster

	r        *Report
	dir      string
	seed     string // snapshot file with the data
	members  []*member
	bucket   *bucket
	byScript bool          // this program runs etcd
	scripts  int           // counts restores by script
	stopTook time.Duration // of the last bare restart
}

// makeBed makes a cluster with data. None of what it does is measured.
func makeBed(ctx context.Context, r *Report, size Size) (b *Bed, err error) {
	b = &Bed{Size: size, r: r, dir: filepath.Join(r.Settings.Dir, fmt.Sprintf("cluster-%d", size>>20))}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Remove())
		}
	}()
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return b, err
	}
	r.Say("preparing %s", size)
	if err := enoughSpace(b.dir, size); err != nil {
		return b, err
	}
	if err := b.fill(ctx); err != nil {
		return b, fmt.Errorf("make the data: %w", err)
	}
	if b.bucket, err = newBucket(filepath.Join(b.dir, "s3")); err != nil {
		return b, err
	}
	patient, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the cluster did not come up"))
	defer cancel()
	if b.Cluster, err = dev.Start(patient, b.options()); err != nil {
		return b, err
	}
	if err := b.TakeOver(ctx); err != nil {
		return b, err
	}
	if err := b.restoreByScript(ctx); err != nil {
		return b, err
	}
	if err := b.HandBack(ctx); err != nil {
		return b, err
	}
	if _, err := b.requorum(ctx, "snapshot", "save", "--name", seedName); err != nil {
		return b, err
	}
	return b, b.useCopy()
}

// useCopy makes the copy of one agent the file with the data, which spares the disk one.
func (b *Bed) useCopy() error {
	made := b.seed
	b.seed = filepath.Join(b.Cluster.Nodes[0].AgentDir, "snapshots", seedName+".db")
	if _, err := os.Stat(b.seed); err != nil {
		return err
	}
	return errors.Join(os.Remove(made), b.Clean(context.Background()))
}

// options of the cluster. What is learnt of its members is what a script would know.
func (b *Bed) options() dev.Options {
	return dev.Options{
		Binary: b.r.Settings.Binary, Dir: filepath.Join(b.dir, "requorum"), Name: "bench",
		Etcd:    []string{fmt.Sprintf("--quota-backend-bytes=%d", int64(quota))},
		Control: b.bucket.configure,
		Configure: func(node string, c *agent.Config) {
			b.members = append(b.members, newMember(node, c.Runtime.Process.Command, filepath.Join(b.dir, node+".log")))
		},
	}
}

// TakeOver stops the agents and runs the etcd processes from here. It returns when they serve.
func (b *Bed) TakeOver(ctx context.Context) error {
	if b.byScript {
		return nil
	}
	for _, n := range b.Cluster.Nodes {
		if err := errors.Join(n.Agent.Stop(), n.StopEtcd()); err != nil {
			return err
		}
	}
	b.byScript = true
	if err := b.startAll(); err != nil {
		return err
	}
	return b.healthy(ctx)
}

// HandBack gives the etcd processes back to the agents. It returns when they serve.
func (b *Bed) HandBack(ctx context.Context) error {
	if !b.byScript {
		return nil
	}
	if err := b.stopAll(ctx); err != nil {
		return err
	}
	b.byScript = false
	for _, n := range b.Cluster.Nodes {
		if err := n.Agent.Start(); err != nil {
			return err
		}
	}
	return b.serving(ctx)
}

// serving returns when every agent is connected and every member serves.
func (b *Bed) serving(ctx context.Context) error {
	patient, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the agents did not come back"))
	defer cancel()
	return b.Cluster.WaitServing(patient)
}

// Endpoints returns the client URLs of the members.
func (b *Bed) Endpoints() []string {
	var urls []string
	for _, m := range b.members {
		urls = append(urls, m.clientURL)
	}
	return urls
}

// Settle waits until everything that was written is on disk, so that what comes next does not pay for it.
func (b *Bed) Settle() { unix.Sync() }

// Clean removes what a restore or a save leaves behind, but for the seed, so that every round begins the same.
func (b *Bed) Clean(ctx context.Context) error {
	for _, m := range b.members {
		old, err := filepath.Glob(m.dataDir + ".*")
		if err != nil {
			return err
		}
		for _, dir := range old {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	if b.byScript {
		return nil
	}
	return b.removeSnapshots(ctx)
}

// Remove stops what runs and removes what is on disk.
func (b *Bed) Remove() error {
	errs := []error{b.bucket.stop()}
	for _, m := range b.members {
		errs = append(errs, m.kill())
	}
	if b.Cluster != nil {
		errs = append(errs, b.Cluster.Stop())
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// spaceFactor is how many times the data lies on the disk at most: three members, their old data, three copies of
// each of two snapshots and a safety snapshot, all a fifth larger than the values in them.
const spaceFactor = 16

func enoughSpace(dir string, size Size) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("see how much space %s has: %w", dir, err)
	}
	free, need := Size(int64(fs.Bavail)*fs.Bsize), spaceFactor*size
	if free < need {
		return fmt.Errorf("%s free below %s, and %s is needed: make room, or name another directory with -dir", free, dir, need)
	}
	return nil
}

// patience is how long anything may take that is waited for. It is far above what it takes.
const patience = 30 * time.Minute

// flagOf returns the value of a flag of a command line, as in --name=value.
func flagOf(command []string, name string) string {
	for _, arg := range command {
		if value, found := strings.CutPrefix(arg, "--"+name+"="); found {
			return value
		}
	}
	return ""
}
