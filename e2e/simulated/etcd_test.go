//go:build faultinject

package simulated_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/task"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const (
	boot      = time.Second // from a start of etcd until it serves
	supervise = time.Second // from its death until it is started again
	version   = "3.6.5"
)

// etcd is the process on a node, with the machine's supervisor that starts it again. The world's lock guards it.
type etcd struct {
	wanted, running bool
	started         time.Time
	controlPlane    bool // whether what writes to etcd runs
}

// gate closes a restored database to writes, as datadir.Stage does.
func gate(result *agentv1.Staged, restored *database) {
	for _, m := range restored.members {
		if result.GetGate() == "" || m.GetId() < result.GetGate() {
			result.Gate = m.GetId()
		}
	}
	restored.alarms = []*requorumv1.Alarm{{MemberId: result.GetGate(), Type: "CORRUPT"}}
}

func (n *node) dataDir() string { return "/simulated/" + n.name + "/etcd" }

func (n *node) peerURL() string { return "http://" + n.name + ":2380" }

// run starts etcd. The caller holds the world's lock, as for everything below that says nothing else.
func (n *node) run() {
	if n.etcd.running || !n.powered {
		return
	}
	n.etcd.running, n.etcd.started = true, time.Now()
	if n.disk.live == nil {
		n.w.wrong("%s: etcd was started without data and makes a cluster of its own", n.name)
		n.disk.live = &data{cluster: hexID(n.name), member: hexID(n.name, "m"), db: &database{cluster: hexID(n.name), keys: map[string]value{}, leases: map[int64]int64{}}}
	}
}

// crash kills etcd; its supervisor starts it again.
func (n *node) crash() {
	n.etcd.running = false
	time.AfterFunc(supervise, func() {
		n.w.mu.Lock()
		defer n.w.mu.Unlock()
		if n.etcd.wanted {
			n.run()
		}
	})
}

// booted tells whether etcd's process takes part in its cluster.
func (n *node) booted() bool {
	return n.etcd.running && n.disk.live != nil && time.Since(n.etcd.started) >= boot
}

// group returns the members that this one reaches, itself included, and brings them to the same state if they
// are a quorum; then the leader is the first one that holds it.
func (n *node) group() (members []*node, quorum bool) {
	if !n.booted() {
		return nil, false
	}
	mine := n.disk.live
	for _, o := range n.w.nodes {
		reach := o == n || !o.cut && !n.cut
		if reach && o.booted() && o.disk.live.cluster == mine.cluster && o.disk.live.db.lists(o.disk.live.member) {
			members = append(members, o)
		}
	}
	if len(members) <= len(mine.db.members)/2 {
		return members, false
	}
	newest := slices.MaxFunc(members, func(a, b *node) int { return int(a.disk.live.db.index) - int(b.disk.live.db.index) }).disk.live.db
	for _, m := range members {
		m.disk.live.db = newest
	}
	return members, true
}

func (d *database) lists(member string) bool {
	return slices.ContainsFunc(d.members, func(m *requorumv1.ListedMember) bool { return m.GetId() == member })
}

// propose changes the cluster's data through a member.
func (n *node) propose(change func(*database) *database) (*database, error) {
	members, quorum := n.group()
	if !quorum {
		return nil, errors.New("etcdserver: no leader")
	}
	next := change(members[0].disk.live.db)
	for _, m := range members {
		m.disk.live.db = next
	}
	return next, nil
}

// status is what a member tells of itself.
func (n *node) status() *requorumv1.Member {
	members, quorum := n.group()
	if !quorum {
		return &requorumv1.Member{Error: "etcd does not answer"}
	}
	live := n.disk.live
	return &requorumv1.Member{
		Id: live.member, Name: n.name, ClusterId: live.cluster, PeerUrls: []string{n.peerURL()}, Serving: true, Leader: members[0].disk.live.member,
		Revision: live.db.revision, RaftAppliedIndex: live.db.index, RaftTerm: 2, Version: version, DbSize: fileSize, DbSizeInUse: fileSize,
		Alarms: live.db.alarms, Members: live.db.members,
	}
}

// seated is the member as an agent sees it.
type seated struct {
	*node
	p *process
}

func (s *seated) ask(f func() error) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.p.live(); err != nil {
		return err
	}
	return f()
}

func (s *seated) Status(context.Context) *requorumv1.Member {
	state := &requorumv1.Member{Error: errDead.Error()}
	if err := s.ask(func() error { state = s.status(); return nil }); err != nil {
		return &requorumv1.Member{Error: err.Error()}
	}
	return state
}

func (s *seated) serving() (*database, error) {
	if _, quorum := s.group(); !quorum {
		return nil, s.notReady("it does not answer")
	}
	return s.disk.live.db, nil
}

func (s *seated) notReady(format string, args ...any) error {
	return &member.NotReadyError{Endpoint: s.name, Reason: fmt.Sprintf(format, args...)}
}

func (s *seated) mismatch(format string, args ...any) error {
	return &member.MismatchError{Endpoint: s.name, Reason: fmt.Sprintf(format, args...)}
}

func (s *seated) HashKV(ctx context.Context, revision int64) (h *agentv1.HashKVResult, err error) {
	if err := s.p.work(ctx, 100*time.Millisecond); err != nil {
		return nil, err
	}
	err = s.ask(func() error {
		db, err := s.serving()
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = db.revision
		}
		h = &agentv1.HashKVResult{Hash: db.hash(revision, db.compact), Revision: revision, CompactRevision: db.compact}
		return nil
	})
	return h, err
}

func (s *seated) Snapshot(context.Context) (stream io.ReadCloser, etcdVersion string, err error) {
	err = s.ask(func() error {
		db, err := s.serving()
		if err == nil {
			stream = &snapshotStream{s: s, from: s.etcd.started, rest: bytes.NewReader(s.w.files.encode(db))}
		}
		return err
	})
	return stream, version, err
}

// snapshotStream breaks off when etcd dies.
type snapshotStream struct {
	s    *seated
	from time.Time
	rest io.Reader
}

func (r *snapshotStream) Read(b []byte) (n int, err error) {
	if err := r.s.p.work(r.s.p.ctx, 100*time.Millisecond); err != nil {
		return 0, err
	}
	err = r.s.ask(func() error {
		if !r.s.etcd.running || r.s.etcd.started != r.from {
			return io.ErrUnexpectedEOF
		}
		n, err = r.rest.Read(b[:min(len(b), 2048)])
		return err
	})
	return n, err
}

func (*snapshotStream) Close() error { return nil }

func (s *seated) Verify(ctx context.Context, want *agentv1.Verify) (*agentv1.Verified, error) {
	if err := s.p.work(ctx, 20*time.Millisecond); err != nil {
		return nil, err
	}
	got := &agentv1.Verified{}
	err := s.ask(func() error {
		db, err := s.serving()
		if err != nil {
			return err
		}
		if err := s.check(db, want); err != nil {
			return err
		}
		if err := s.prove(want); err != nil {
			return err
		}
		db = s.disk.live.db
		if r := want.GetHashRevision(); r != 0 {
			got.HashKv = &agentv1.HashKVResult{Hash: db.hash(r, db.compact), Revision: r, CompactRevision: db.compact}
		}
		got.Member = s.status()
		return nil
	})
	return got, err
}

func (s *seated) check(db *database, want *agentv1.Verify) error {
	live := s.disk.live
	switch {
	case live.cluster != want.GetClusterId() && want.GetClusterId() != "":
		return s.mismatch("its cluster ID is %s, not %s", live.cluster, want.GetClusterId())
	case live.member != want.GetMemberId() && want.GetMemberId() != "":
		return s.mismatch("its member ID is %s, not %s", live.member, want.GetMemberId())
	case db.revision < max(want.GetRevision(), want.GetHashRevision()):
		return s.notReady("it is at revision %d", db.revision)
	case len(want.GetAddLearners()) > 0:
		return errors.New("the simulated etcd has no learners")
	case want.GetMembers() != nil && len(want.GetMembers()) != len(db.members):
		return s.mismatch("it lists %d members", len(db.members))
	}
	for _, a := range db.alarms {
		if a.GetType() == "CORRUPT" && (want.GetGate() == "" || a.GetMemberId() != want.GetGate()) {
			return s.mismatch("alarm CORRUPT of member %s", a.GetMemberId())
		}
	}
	return nil
}

// prove lifts the gate where asked to, and writes something that leaves no trace in the keys.
func (s *seated) prove(want *agentv1.Verify) error {
	_, err := s.propose(func(d *database) *database {
		return d.next(func(n *database) {
			if want.GetLiftGate() {
				n.alarms = slices.DeleteFunc(n.alarms, func(a *requorumv1.Alarm) bool { return a.GetMemberId() == want.GetGate() })
			}
		})
	})
	return err
}

// machine is the node's runtime as one agent sees it.
type machine struct {
	*node
	p *process
}

var (
	_ runtime.Runtime      = (*machine)(nil)
	_ runtime.ControlPlane = (*machine)(nil)
	_ runtime.Liveness     = (*machine)(nil)
	_ task.Member          = (*seated)(nil)
)

func (m *machine) Name() string { return "simulated" }

func (m *machine) do(ctx context.Context, takes time.Duration, f func()) error {
	if err := m.p.work(ctx, takes); err != nil {
		return err
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if err := m.p.live(); err != nil {
		return err
	}
	f()
	return nil
}

func (m *machine) Inspect(ctx context.Context) (found runtime.Member, err error) {
	err = m.do(ctx, 0, func() {
		found = runtime.Member{
			Name: m.name, DataDir: m.dataDir(), AdvertisePeerURLs: []string{m.peerURL()}, ListenPeerURLs: []string{m.peerURL()},
			Version: version, Running: m.etcd.running, Wanted: m.etcd.wanted,
		}
	})
	return found, err
}

func (m *machine) Stop(ctx context.Context) error {
	return m.do(ctx, 200*time.Millisecond, func() { m.etcd.wanted, m.etcd.running = false, false })
}

func (m *machine) Start(ctx context.Context) error {
	return m.do(ctx, 50*time.Millisecond, func() { m.etcd.wanted = true; m.run() })
}

func (m *machine) Alive(ctx context.Context) (err error) {
	return errors.Join(m.do(ctx, 0, func() {
		if !m.etcd.running {
			err = errors.New("etcd has ended")
		}
	}), err)
}

func (m *machine) ControlPlane() []string { return []string{"kube-apiserver"} }

func (m *machine) StopControlPlane(ctx context.Context) error {
	return m.do(ctx, 50*time.Millisecond, func() { m.etcd.controlPlane = false })
}

func (m *machine) StartControlPlane(ctx context.Context) error {
	return m.do(ctx, 50*time.Millisecond, func() { m.etcd.controlPlane = true })
}

// seed is the cluster as it is before anything happens, and a snapshot of it.
func seed(nodes []*node) *database {
	first := &database{cluster: hexID("seed"), index: 1, revision: 1, keys: map[string]value{}, leases: map[int64]int64{}}
	for _, n := range nodes {
		first.members = append(first.members, &requorumv1.ListedMember{Id: hexID("seed", n.name), Name: n.name, PeerUrls: []string{n.peerURL()}})
	}
	db := first
	for i := range 4 {
		db = db.put(fmt.Sprintf("key-%d", i), "old", int64(i%2)*7)
	}
	for _, n := range nodes {
		n.disk.live = &data{cluster: db.cluster, member: hexID("seed", n.name), db: db}
		n.etcd = etcd{wanted: true, controlPlane: true}
		n.run()
		n.etcd.started = time.Now().Add(-boot)
	}
	return db
}

func manifestOf(name, node string, content []byte, db *database) *requorumv1.Manifest {
	m := db.manifest()
	f := factsOf(content)
	m.FormatVersion, m.Name, m.Cluster, m.Node, m.Created = 1, name, clusterName, node, timestamppb.New(time.Now())
	m.Md5, m.Sha256, m.EtcdVersion, m.Kind = f.GetMd5(), f.GetSha256(), version, requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND
	return m
}
