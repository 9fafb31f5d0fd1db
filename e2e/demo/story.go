package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/cmd/requorum/dev"
)

const snapshotName = "before"

// story is the demo under way.
type story struct {
	*narrator
	binary  string
	dir     string
	begun   time.Time
	cluster *dev.Cluster
	client  *clientv3.Client // of the whole cluster
	saved   map[string]entry // what the snapshot holds

	clusterID uint64 // of the etcd cluster before the restore
}

func (s *story) tell(ctx context.Context) (err error) {
	s.line(s.paint(bold, "requorum: one snapshot on every node, and the whole cluster back from it"))
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	for _, chapter := range []func(context.Context) error{s.save, s.change, s.restore, s.destroy, s.restoreAgain} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// start brings up the cluster and writes what the snapshot will hold.
func (s *story) start(ctx context.Context) error {
	s.title("A cluster with data")
	var err error
	if s.cluster, err = dev.Start(ctx, dev.Options{Binary: s.binary, Dir: s.dir, Name: "demo"}); err != nil {
		return err
	}
	if s.client, err = dial(s.endpoints()...); err != nil {
		return errors.Join(err, s.cluster.Stop()) // it stops whether or not the story was stopped
	}
	s.say("A controller, and three nodes with an agent and an etcd member each, run on this machine.")
	err = s.fill(ctx)
	if err != nil {
		err = errors.Join(err, s.end())
	}
	return err
}

func (s *story) fill(ctx context.Context) error {
	if err := put(ctx, s.client, 0, keysBefore, "written first"); err != nil {
		return err
	}
	if err := put(ctx, s.client, 0, keysBefore/10, "written twice"); err != nil {
		return err
	}
	s.say("%d keys are written, the first %d of them twice.", keysBefore, keysBefore/10)
	return nil
}

func (s *story) end() error {
	closed := s.client.Close()
	if errors.Is(closed, context.Canceled) {
		closed = nil // that is how a client says that it is closed
	}
	return errors.Join(closed, s.cluster.Stop())
}

func (s *story) endpoints() []string {
	var urls []string
	for _, n := range s.cluster.Nodes {
		urls = append(urls, n.ClientURL)
	}
	return urls
}

// save takes the snapshot and looks at the three files as a stranger would.
func (s *story) save(ctx context.Context) error {
	s.title("One snapshot, the same file on every node")
	first, err := readAll(ctx, s.cluster.Nodes[0].ClientURL)
	if err != nil {
		return err
	}
	s.saved, s.clusterID = first.keys, first.clusterID
	if len(s.saved) != keysBefore {
		return fmt.Errorf("%d keys were written and %d are there", keysBefore, len(s.saved))
	}
	if err := s.requorum(ctx, "snapshot", "save", "--name", snapshotName); err != nil {
		return err
	}
	s.say("The MD5 of the three files, computed here and not by requorum:")
	return s.compareFiles()
}

func (s *story) compareFiles() error {
	sums := map[string]bool{}
	for _, n := range s.cluster.Nodes {
		path := filepath.Join(n.AgentDir, "snapshots", snapshotName+".db")
		sum, err := md5Of(path)
		if err != nil {
			return err
		}
		sums[sum] = true
		s.say("  %s  %s", sum, path)
	}
	if len(sums) != 1 {
		return errors.New("the three files are not the same")
	}
	s.proved("one file on three nodes")
	return nil
}

// change does to the data what a bad upgrade would.
func (s *story) change(ctx context.Context) error {
	s.title("Then the data is changed")
	if err := put(ctx, s.client, keysBefore, keysBefore+keysLater, "written later"); err != nil {
		return err
	}
	if err := put(ctx, s.client, 200, 500, "overwritten"); err != nil {
		return err
	}
	if err := remove(ctx, s.client, 500, 700); err != nil {
		return err
	}
	s.say("%d new keys, 300 overwritten, 200 deleted.", keysLater)
	return s.mustDiffer(ctx)
}

// mustDiffer makes sure that the proofs that follow can fail.
func (s *story) mustDiffer(ctx context.Context) error {
	for _, n := range s.cluster.Nodes {
		have, err := readAll(ctx, n.ClientURL)
		if err != nil {
			return err
		}
		if compare(s.saved, have.keys, fresh) == nil {
			return fmt.Errorf("%s holds the snapshot's data, although it was changed", n.Name)
		}
	}
	return nil
}

// restore brings the snapshot back while a client uses the cluster.
func (s *story) restore(ctx context.Context) error {
	s.title("The whole cluster goes back to the snapshot, with a client at work")
	s.say("The client writes and reads every %d ms and waits %d ms for an answer.", probeEvery.Milliseconds(), probeWithin.Milliseconds())
	p, err := probe(ctx, s.endpoints())
	if err != nil {
		return err
	}
	err = p.answeredSince(ctx, time.Now())
	if err == nil {
		err = s.requorum(ctx, "restore", "--snapshot", snapshotName, "--yes")
	}
	if err == nil {
		err = p.answeredSince(ctx, time.Now())
	}
	if err = errors.Join(err, p.stop()); err != nil {
		return err
	}
	if err := s.prove(ctx, fresh); err != nil {
		return err
	}
	return s.timeline(ctx, p)
}

// fresh is the revision from which on keys were written to a restored cluster: a restore adds a billion
// to the snapshot's revision, and this story writes far fewer.
const fresh = 1_000_000_000

// prove asks every member by itself for all of its data. Nothing but what was created at or after the
// revision since may be there besides what the snapshot holds.
func (s *story) prove(ctx context.Context, since int64) error {
	s.say("Every member is asked for all of its keys, without asking the others:")
	var clusterID uint64
	for i, n := range s.cluster.Nodes {
		have, err := readAll(ctx, n.ClientURL, clientv3.WithSerializable())
		if err != nil {
			return err
		}
		if err := compare(s.saved, have.keys, since); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
		s.proved("%s: %d keys as in the snapshot (value, version, revisions), no later one is left", n.Name, len(s.saved))
		if i == 0 {
			clusterID = have.clusterID
		}
		if err := have.isNew(s.clusterID, clusterID); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	s.clusterID = clusterID
	s.proved("a new cluster ID on all three; the revision jumped ahead, and what was before it is compacted")
	return nil
}

// isNew tells whether a member belongs to the restored cluster, which no member with old data can join and
// whose clients notice that history has changed.
func (c content) isNew(before, expected uint64) error {
	switch {
	case c.clusterID == before:
		return errors.New("the cluster ID is that from before the restore")
	case c.clusterID != expected:
		return errors.New("the cluster ID is not that of the other members")
	case c.revision < fresh:
		return fmt.Errorf("the revision is %d and did not jump ahead", c.revision)
	case !c.compacted:
		return errors.New("revisions from before the restore can still be read")
	}
	return nil
}

// destroy takes two of three machines down and their data away.
func (s *story) destroy(ctx context.Context) error {
	s.title("Disaster: two of three members are lost with their data")
	var names []string
	for _, n := range s.cluster.Nodes[:2] {
		if err := lose(ctx, n); err != nil {
			return err
		}
		names = append(names, n.Name)
	}
	who := strings.Join(names, " and ")
	s.say("%s: agent and etcd killed, etcd's data and the copies of the snapshot deleted.", who)
	if err := s.mustNotWrite(ctx); err != nil {
		return err
	}
	s.say("The machines come back with empty disks; their agents start.")
	for _, n := range s.cluster.Nodes[:2] {
		if err := n.Agent.Start(); err != nil {
			return err
		}
	}
	return s.connected(ctx)
}

func (s *story) mustNotWrite(ctx context.Context) error {
	writing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := s.client.Put(writing, keyName(0), "lost")
	switch {
	case err == nil:
		return errors.New("a write was accepted without a quorum")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	s.broken("the quorum is lost, a write fails: %v", err)
	return nil
}

// lose is what happens to a node whose machine dies and loses what etcd and snapshots are kept on.
func lose(ctx context.Context, n *dev.Node) error {
	if err := n.Agent.Kill(); err != nil {
		return err
	}
	if err := killEtcd(ctx, n); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(n.DataDir), os.RemoveAll(filepath.Join(n.AgentDir, "snapshots")))
}

func (s *story) restoreAgain(ctx context.Context) error {
	s.title("The same restore again: one copy of the snapshot is enough")
	if err := s.requorum(ctx, "restore", "--snapshot", snapshotName, "--yes"); err != nil {
		return err
	}
	if err := s.prove(ctx, math.MaxInt64); err != nil { // nobody writes now
		return err
	}
	if err := s.compareFiles(); err != nil {
		return err
	}
	if _, err := s.client.Put(ctx, keyName(0), "written after all"); err != nil {
		return fmt.Errorf("write after the restore: %w", err)
	}
	s.proved("the cluster takes writes")
	s.line("")
	s.say("All of this took %s. Everything is stopped and removed now.", time.Since(s.begun).Round(time.Second))
	return nil
}
