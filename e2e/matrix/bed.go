package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/fault"
)

const (
	baseSnapshot = "base"
	remoteName   = "offsite"
	keys         = 120

	offline = 6 * time.Second // how long a task waits for a node that is away
	stalled = 6 * time.Second // how long a task may show no progress
	long    = offline + 2*time.Second
	brief   = time.Second

	diskSize = 900 << 20
	diskNode = "etcd-2" // the node whose disk can be filled
)

// bed is a cluster on which one cell is run after the other.
type bed struct {
	*harness.Cluster
	network *harness.Network // nil where there are no namespaces
	life    *recorder
	hears   *recorder         // who hears of what goes wrong now
	remote  string            // the directory that is the remote
	files   string            // directory of the nodes' files besides etcd's
	bundles map[string][]byte // by path: those of the snapshot that everything is restored from
	base    world             // as the snapshot has it
	cell    int               // cells run so far
}

// newBed starts a cluster and saves the snapshot that everything is restored from.
func newBed(number int, namespaces bool) (*bed, error) {
	life := &recorder{name: fmt.Sprintf("cluster %d", number)}
	b := &bed{life: life, hears: life}
	b.life.during(func() {
		b.start(number, namespaces)
		b.Write(keys)
		b.base = b.look()
		b.writeFiles(filesThen)
		b.Do("snapshot", "save", "--name", baseSnapshot, "--remote", remoteName, "--files", fileSet)
		b.keepBundles()
		b.writeFiles(filesNow)
	})
	if b.life.Failed() {
		b.life.finish()
		return nil, fmt.Errorf("%s: %v %v", b.life.name, b.life.failures, b.life.logs)
	}
	return b, nil
}

func (b *bed) start(number int, namespaces bool) {
	o := harness.Options{Beside: true, Configure: b.configure, Control: func(c *controller.Config) {
		c.OfflineAfter, c.StalledAfter = config.Duration(offline), config.Duration(stalled)
		c.Remotes = []remote.Config{{Name: remoteName, Kind: "dir", Dir: remote.Dir{Path: b.remote}}}
	}}
	if namespaces {
		var err error
		if b.network, err = harness.NewNetwork(number, "controller", "etcd-1", "etcd-2", "etcd-3"); err != nil {
			b.life.Fatal(err)
		}
		b.life.Cleanup(func() {
			if err := b.network.Remove(); err != nil {
				b.life.Error(err)
			}
		})
		o.Host, o.Launch = b.network.Host, b.network.Launch
	}
	b.remote, b.files = b.life.TempDir(), b.life.TempDir()
	b.Cluster = harness.Start(b.life, o)
}

// configure puts one node on a small disk.
func (b *bed) configure(node string, a *agent.Config) {
	a.StartWait = config.Duration(20 * time.Second)
	a.Files = files.Sets{fileSet: {b.filesOf(node)}}
	if b.network == nil || node != diskNode {
		return
	}
	dir := filepath.Dir(a.DataDir)
	if err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize))); err != nil {
		b.life.Fatalf("mount a small disk: %v", err)
	}
	b.life.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			b.life.Errorf("unmount %s: %v", dir, err)
		}
	})
}

func (b *bed) ballast() string {
	return filepath.Join(filepath.Dir(b.Node(diskNode).AgentDir), "ballast")
}

// fill leaves nothing free on the small disk.
func (b *bed) fill() error {
	f, err := os.Create(b.ballast())
	if err != nil {
		return err
	}
	defer f.Close()
	var at int64
	for chunk := int64(64 << 20); chunk >= 4<<10; { // smaller and smaller pieces: others take space meanwhile
		switch err := unix.Fallocate(int(f.Fd()), 0, at, chunk); {
		case err == nil:
			at += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("fill the disk of %s: %w", diskNode, err)
		}
	}
	return nil
}

func (b *bed) empty() error {
	if err := os.Remove(b.ballast()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// begin starts an operation of a plan and returns its ID.
func (b *bed) begin(ctx context.Context, plan string) (id string, err error) {
	b.cell++
	if plan == "save" {
		resp, err := requorumv1.NewSnapshotServiceClient(b.Conn()).SaveSnapshot(ctx, &requorumv1.SaveSnapshotRequest{Cluster: harness.Name, Name: fmt.Sprintf("cell-%d", b.cell), Remote: remoteName, Files: []string{fileSet}})
		return resp.GetOperation().GetId(), err
	}
	resp, err := requorumv1.NewRestoreServiceClient(b.Conn()).StartRestore(ctx, &requorumv1.StartRestoreRequest{Spec: &requorumv1.RestoreSpec{
		Cluster: harness.Name, Snapshot: baseSnapshot, Quarantine: durationpb.New(time.Hour), Files: requorumv1.FilesMode_FILES_MODE_RESTORE,
	}})
	return resp.GetOperation().GetId(), err
}

// lacking makes nodes lack the snapshot before a restore: one of them, so that there is something to distribute, or all,
// so that one has to fetch it from the remote.
func (b *bed) lacking(fetched bool) {
	for _, node := range b.NodeNames() {
		if !fetched && node != "etcd-3" {
			continue
		}
		if err := os.Remove(b.Copy(node, baseSnapshot)); err != nil {
			b.hears.Fatal(err)
		}
		if !fetched {
			continue
		}
		if err := os.Remove(b.bundle(node)); err != nil {
			b.hears.Fatal(err)
		}
	}
}

// operation returns an operation as it is now; nil while the controller does not answer.
func (b *bed) operation(ctx context.Context, id string) *requorumv1.Operation {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := requorumv1.NewOperationServiceClient(b.Conn()).GetOperation(ctx, &requorumv1.GetOperationRequest{Id: id})
	if err != nil {
		return nil
	}
	return resp.GetOperation()
}

// firings are those of a point that was armed at a node, or at any.
func (b *bed) firings(point, node string) []fault.Firing {
	firings, err := fault.ReadFirings(filepath.Join(string(b.Faults), fault.FileName(point, node)+fault.FiredSuffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return firings
}
