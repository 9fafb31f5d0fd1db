package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const (
	askMember   = 2 * time.Second
	removalTime = 5 * time.Second
)

// Serving waits until the nodes' members, all if none is named, serve as one cluster with the same data and returns the
// cluster's ID and revision. The error says what is not so.
func (c *Cluster) Serving(nodes ...string) (clusterID uint64, revision int64, err error) {
	if len(nodes) == 0 {
		nodes = c.NodeNames()
	}
	err = c.until("the members do not serve as one cluster", func(ctx context.Context) (err error) {
		clusterID, revision, err = c.oneCluster(ctx, nodes)
		return err
	})
	return clusterID, revision, err
}

// oneCluster compares what the members say of themselves.
func (c *Cluster) oneCluster(ctx context.Context, nodes []string) (id uint64, revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askMember*time.Duration(len(nodes)))
	defer cancel()
	var leader uint64
	for _, node := range nodes {
		st, err := c.Client(node).Status(ctx, c.Endpoint(node))
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", node, err)
		}
		if _, err := c.Client(node).Get(ctx, "any"); err != nil { // linearizable: it has a leader and a quorum
			return 0, 0, fmt.Errorf("%s: %w", node, err)
		}
		if id == 0 {
			id, leader = st.Header.ClusterId, st.Leader
		}
		revision = max(revision, st.Header.Revision)
		if st.Header.ClusterId != id || st.Leader != leader || leader == 0 {
			return 0, 0, fmt.Errorf("%s is in cluster %x under leader %x, %s in %x under %x", node, st.Header.ClusterId, st.Leader, nodes[0], id, leader)
		}
	}
	return id, revision, c.sameHash(ctx, nodes, revision)
}

func (c *Cluster) sameHash(ctx context.Context, nodes []string, revision int64) error {
	var hash uint32
	for i, node := range nodes {
		h, err := c.Client(node).HashKV(ctx, c.Endpoint(node), revision)
		if errors.Is(err, rpctypes.ErrCompacted) { // to etcd 3.4 the revision that was compacted at is compacted, too
			h, err = c.Client(node).HashKV(ctx, c.Endpoint(node), 0)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", node, err)
		}
		if i == 0 {
			hash = h.Hash
		}
		if h.Hash != hash {
			return fmt.Errorf("%s has HashKV %d at revision %d, %s has %d", node, h.Hash, revision, nodes[0], hash)
		}
	}
	return nil
}

// LeftBehind lists what should not be there: staging directories, partial files, copies of snapshots that are not in the
// catalog or were made on the way to something that failed, quarantine directories of restores that did not succeed, and processes that nobody looks after. It waits a
// little for what is being removed.
func (c *Cluster) LeftBehind() []string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), removalTime)
	defer cancel()
	var left []string
	err := retry(ctx, func(context.Context) error {
		left = c.leftNow()
		if len(left) == 0 {
			return nil
		}
		return errors.New("something is left")
	})
	if err == nil {
		return nil
	}
	return left
}

func (c *Cluster) leftNow() []string {
	c.t.Helper()
	var paths []string
	err := filepath.WalkDir(c.Dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		paths = append(paths, path)
		return err
	})
	c.must(err)
	var left []string
	for _, path := range c.Excess(paths) {
		left = append(left, strings.TrimPrefix(path, c.Dir+"/"))
	}
	return append(left, c.strays()...)
}

// Excess picks from paths those that should not be there, as LeftBehind says, without what is below one of them.
func (c *Cluster) Excess(paths []string) []string {
	c.t.Helper()
	kept, good := c.quarantines(), c.snapshots()
	var left []string
	for _, path := range paths {
		dir, base := filepath.Split(path)
		switch {
		case slices.ContainsFunc(strings.Split(dir, "/"), func(name string) bool {
			return name == "member" || strings.Contains(name, "quarantine-") || strings.Contains(name, "staging-")
		}): // etcd's own, or part of what is judged as a whole
		case strings.Contains(base, "quarantine-"):
			if !kept[path] {
				left = append(left, path)
			}
		case strings.Contains(base, "staging-"), strings.HasSuffix(base, ".part"), strings.HasSuffix(base, ".expected"), strings.HasSuffix(base, ".tmp"):
			left = append(left, path)
		case filepath.Base(dir) == "snapshots" && !good[snapshotOf(base)]:
			left = append(left, path)
		}
	}
	return left
}

// snapshotOf is the snapshot that a file in a vault is of: NAME.db.zst.age, where all after .db may be missing, or NAME.json.
func snapshotOf(file string) string {
	file = strings.TrimSuffix(strings.TrimSuffix(file, ".age"), ".zst")
	return strings.TrimSuffix(file, filepath.Ext(file))
}

// quarantines are the directories that successful restores keep.
func (c *Cluster) quarantines() map[string]bool {
	kept := map[string]bool{}
	for _, op := range c.Operations() {
		if op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
			continue
		}
		for _, q := range op.GetQuarantines() {
			for _, path := range q.GetPaths() {
				kept[path] = true
			}
		}
	}
	return kept
}

// snapshots are the names of what may be in a vault: ready, and made by an operation that succeeded, or entered by a
// rebuild of the catalog, which does not know the operation.
func (c *Cluster) snapshots() map[string]bool {
	done := map[string]bool{"": true}
	for _, op := range c.Operations() {
		done[op.GetId()] = op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
	}
	good := map[string]bool{}
	c.must(c.until("the controller does not answer", func(ctx context.Context) error {
		resp, err := requorumv1.NewSnapshotServiceClient(c.Conn()).ListSnapshots(ctx, &requorumv1.ListSnapshotsRequest{Cluster: Name})
		for _, s := range resp.GetSnapshots() {
			safety := s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY                                                                                 // which a revert keeps, too
			good[s.GetName()] = s.GetState() == requorumv1.SnapshotState_SNAPSHOT_STATE_READY && (safety || s.GetOperationId() == "" || done[s.GetOperationId()]) // without one it was found in a remote
		}
		return err
	}))
	return good
}

// process is one that has the cluster's directory in its command line.
type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("process %d: %s", p.pid, p.command) }

func (p process) kill() { _ = syscall.Kill(p.pid, syscall.SIGKILL) } // it may have ended meanwhile

// processes lists every process that has the cluster's directory in its command line.
func (c *Cluster) processes() []process {
	var found []process
	entries, err := os.ReadDir("/proc")
	if err != nil {
		c.t.Error(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.Contains(string(line), c.Dir+"/") {
			continue // it has ended, or is somebody else's
		}
		found = append(found, process{pid: pid, command: strings.ReplaceAll(string(line), "\x00", " ")})
	}
	return found
}

// strays are the cluster's processes that are neither controller nor agent nor the etcd that an agent knows of.
func (c *Cluster) strays() []string {
	known := []int{}
	for _, name := range append([]string{"controller"}, c.NodeNames()...) {
		if p := c.Process(name); p.Running() {
			known = append(known, p.PID())
		}
	}
	for _, n := range c.Nodes {
		if pid := c.etcdPID(n.Name); pid != 0 {
			known = append(known, pid)
		}
	}
	var strays []string
	for _, p := range c.processes() {
		if !slices.Contains(known, p.pid) {
			strays = append(strays, p.String())
		}
	}
	return strays
}

// etcdPID is the process that a node's agent says etcd has; 0 if it says nothing.
func (c *Cluster) etcdPID(node string) int {
	data, err := os.ReadFile(filepath.Join(c.Node(node).AgentDir, "process", "etcd.pid.json"))
	if err != nil {
		return 0
	}
	var rec struct {
		PID int `json:"pid"`
	}
	if json.Unmarshal(data, &rec) != nil {
		return 0
	}
	return rec.PID
}

// EtcdRuns tells whether a process runs on a node's data directory.
func (c *Cluster) EtcdRuns(node string) bool {
	for _, p := range c.processes() {
		if strings.Contains(p.command, "--data-dir="+c.Node(node).DataDir+" ") {
			return true
		}
	}
	return false
}

// KillEtcd ends a node's etcd as a crash would. Its agent starts it again, if it runs.
func (c *Cluster) KillEtcd(node string) {
	for _, p := range c.processes() {
		if strings.Contains(p.command, "--data-dir="+c.Node(node).DataDir+" ") {
			p.kill()
		}
	}
}

// Wipe deletes a node's data directory, as a disk that is lost.
func (c *Cluster) Wipe(node string) {
	c.t.Helper()
	c.must(c.until("the data directory cannot be deleted", func(context.Context) error { return os.RemoveAll(c.Node(node).DataDir) }))
}
