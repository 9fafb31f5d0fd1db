//go:build faultinject

package simulated_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/remote"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"

	controllerremote "github.com/requorum/requorum/controller/remote"
)

const (
	remoteName = "offsite"
	outFor     = 90 * time.Second // longer than an agent tries
)

// bucket is an object store outside of the cluster. The world's lock guards it.
type bucket struct {
	objects map[string][]byte
	parts   map[string][]byte // what was sent of objects that are not complete
	out     string            // away, denied, full or hung; empty while it is well
	cuts    int               // how many of the next transfers break off in the middle
	loses   int               // how many of the next changes are made, and answered with a failure
	dies    int               // how many changes it makes until it is away; 0 for any number
	takes   time.Duration     // until it answers
	marker  string            // of the directory that it is configured as; empty until something is stored
}

func newBucket() *bucket {
	return &bucket{objects: map[string][]byte{}, parts: map[string][]byte{}, takes: 20 * time.Millisecond}
}

// offsite is the bucket in the controller's configuration. What is stored is neither compressed nor encrypted, so that
// it can be judged byte by byte.
func (w *world) offsite() *controllerremote.Remotes {
	plain := 0
	all, err := controllerremote.New([]controllerremote.Config{{
		Name: remoteName, Kind: "dir", Folder: "etcd", ZstdLevel: &plain, Dir: controllerremote.Dir{Path: "/offsite"},
	}})
	w.must(err)
	return all
}

// reached is the bucket as one process of a node reaches it.
type reached struct {
	n *node
	p *process
}

var _ remote.Store = reached{}

// open is what remote.Open is on a real node.
func (r reached) open(to *agentv1.Remote, _ func(), again func(error)) (remote.Store, error) {
	if want := to.GetDir().GetMarker(); want != "" && want != r.Marker() {
		return nil, failed("open", objectstore.ErrNoStore, fmt.Errorf("its marker is %q, not %q", r.Marker(), want))
	}
	return patient{objectstore.Retry(r, objectstore.Patience{Notify: again}), r}, nil
}

type patient struct {
	objectstore.Store
	directory
}

// directory is what a remote.Store has besides.
type directory interface {
	io.Closer
	Marker() string
}

func (reached) Close() error { return nil }

// Marker implements remote.Store.
func (r reached) Marker() string {
	r.n.w.mu.Lock()
	defer r.n.w.mu.Unlock()
	return r.n.w.bucket.marker
}

func failed(doing string, kind, cause error) error {
	return &objectstore.Error{Store: "bucket", Doing: doing, Kind: kind, Cause: cause}
}

// on is use for what is about one object.
func (r reached) on(ctx context.Context, doing, key string, f func(*bucket) error) error {
	if err := objectstore.CheckKey(key); err != nil {
		return failed(doing, objectstore.ErrInvalid, err)
	}
	return r.use(ctx, doing, f)
}

// use runs f on the bucket, unless the process is dead or the bucket out of order. It waits while that hangs.
func (r reached) use(ctx context.Context, doing string, f func(*bucket) error) error {
	for wait := r.n.w.bucket.takes; ; wait = time.Second {
		if err := r.p.work(ctx, wait); err != nil {
			return err
		}
		if hung, err := r.try(doing, f); !hung {
			return err
		}
	}
}

func (r reached) try(doing string, f func(*bucket) error) (hung bool, err error) {
	r.n.w.mu.Lock()
	defer r.n.w.mu.Unlock()
	if err := r.p.live(); err != nil {
		return false, err
	}
	b := r.n.w.bucket
	switch {
	case r.n.cut, b.out == "away":
		return false, failed(doing, nil, errors.New("no route to host"))
	case b.out == "denied":
		return false, failed(doing, objectstore.ErrDenied, errors.New("the key is not known"))
	case b.out == "hung":
		return true, nil
	}
	return false, f(b)
}

// done answers what has changed something, unless the answer is to be lost.
func (b *bucket) done(doing string) error {
	if b.dies > 0 {
		if b.dies--; b.dies == 0 {
			b.out = "away"
		}
	}
	if b.loses == 0 {
		return nil
	}
	b.loses--
	return failed(doing, nil, io.ErrUnexpectedEOF)
}

// breaks tells whether the transfer that has come to its middle breaks off.
func (b *bucket) breaks() bool {
	if b.cuts == 0 {
		return false
	}
	b.cuts--
	return true
}

func (r reached) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	doing := "store " + key
	s := &sending{reached: r, ctx: ctx, key: key}
	if err := r.on(ctx, doing, key, func(b *bucket) error { b.marker = "the-marker"; return nil }); err != nil {
		return err
	}
	if err := write(s); err != nil {
		if s.err == nil {
			err = &objectstore.SourceError{Err: err}
		}
		return errors.Join(err, s.giveUp())
	}
	return r.use(ctx, doing, func(b *bucket) error {
		b.objects[key] = s.sent
		delete(b.parts, key)
		return b.done(doing)
	})
}

// sending is an object that is being stored.
type sending struct {
	reached
	ctx  context.Context
	key  string
	sent []byte
	err  error // of the bucket
}

// Write sends in two halves.
func (s *sending) Write(data []byte) (int, error) {
	half := len(data) / 2
	for i, part := range [][]byte{data[:half], data[half:]} {
		s.err = s.use(s.ctx, "store "+s.key, func(b *bucket) error {
			switch {
			case b.out == "full":
				return failed("store "+s.key, nil, errors.New("the bucket is full"))
			case i == 1 && b.breaks():
				return failed("store "+s.key, nil, io.ErrUnexpectedEOF)
			}
			s.sent = append(s.sent, part...)
			b.parts[s.key] = s.sent
			return nil
		})
		if s.err != nil {
			return 0, s.err
		}
	}
	return len(data), nil
}

// giveUp removes what was sent, where that is still possible.
func (s *sending) giveUp() error {
	_, err := s.try("store "+s.key, func(b *bucket) error { delete(b.parts, s.key); return nil })
	if errors.Is(err, errDead) {
		return err
	}
	return nil
}

func (r reached) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	g := &getting{reached: r, ctx: ctx, key: key}
	err := r.on(ctx, "read "+key, key, func(b *bucket) error {
		data, there := b.objects[key]
		if !there {
			return failed("read "+key, objectstore.ErrNotFound, objectstore.ErrNotFound)
		}
		g.rest = data[min(int(offset), len(data)):]
		g.half = len(g.rest) / 2
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// getting is an object that is being read, in two halves at least.
type getting struct {
	reached
	ctx  context.Context
	key  string
	rest []byte
	half int // bytes of the first half that are left
}

func (g *getting) Read(p []byte) (n int, err error) {
	if len(g.rest) == 0 {
		return 0, io.EOF
	}
	err = g.use(g.ctx, "read "+g.key, func(b *bucket) error {
		most := len(g.rest)
		if g.half > 0 {
			most = g.half
		} else if b.breaks() {
			return failed("read "+g.key, nil, io.ErrUnexpectedEOF)
		}
		n = copy(p, g.rest[:most])
		g.rest, g.half = g.rest[n:], g.half-n
		return nil
	})
	return n, err
}

func (r reached) Stat(ctx context.Context, key string) (info objectstore.Info, err error) {
	err = r.on(ctx, "look at "+key, key, func(b *bucket) error {
		data, there := b.objects[key]
		if !there {
			return failed("look at "+key, objectstore.ErrNotFound, objectstore.ErrNotFound)
		}
		info = objectstore.Info{Key: key, Size: int64(len(data)), Modified: time.Now()}
		return nil
	})
	return info, err
}

func (r reached) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Info, error] {
	return func(yield func(objectstore.Info, error) bool) {
		var all []objectstore.Info
		err := r.use(ctx, "list "+prefix, func(b *bucket) error {
			for _, key := range slices.Sorted(maps.Keys(b.objects)) {
				if strings.HasPrefix(key, prefix) {
					all = append(all, objectstore.Info{Key: key, Size: int64(len(b.objects[key])), Modified: time.Now()})
				}
			}
			return nil
		})
		for _, info := range all {
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(objectstore.Info{}, err)
		}
	}
}

func (r reached) Delete(ctx context.Context, key string) error {
	return r.on(ctx, "remove "+key, key, func(b *bucket) error {
		delete(b.objects, key)
		delete(b.parts, key)
		return b.done("remove " + key)
	})
}

// seedRemote stores a snapshot in the bucket, as an earlier upload has.
func (w *world) seedRemote(snap *requorumv1.Snapshot, content []byte) {
	r, err := w.offsite().Get(remoteName)
	w.must(err)
	object, err := r.Object(clusterName, snap.GetManifest())
	w.must(err)
	bundles := r.Bundles(object, snap.GetManifest())
	for _, b := range bundles {
		n := w.node(b.GetNode())
		data, err := n.keeper().Read(snap.GetName(), b)
		w.must(err)
		b.Stored, err = remote.UploadFiles(context.Background(), w.looking(), snap.GetName(), b, data, func(int64) {})
		w.must(err)
	}
	described := proto.CloneOf(snap.GetManifest())
	described.Bundles = bundles
	stored, err := remote.Upload(context.Background(), w.looking(), described, object, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, func(int64) {})
	w.must(err)
	snap.Remotes = []*requorumv1.RemoteCopy{{Remote: remoteName, State: requorumv1.CopyState_COPY_STATE_GOOD, Object: stored, Bundles: bundles}}
}

// looking is the bucket as the test itself reaches it.
func (w *world) looking() reached { return reached{w.nodes[0], newProcess("test")} }

// heal makes the bucket as it should be, with what it holds. The caller holds the lock.
func (b *bucket) heal() { b.out, b.cuts, b.loses, b.dies = "", 0, 0, 0 }

// judgeRemote makes sure that what has a manifest is whole, that what the catalog says is there is there, and that
// nothing else is, but for what an outage has left, as the operation says and the list of orphans shows. listed is what
// a node finds there.
func (w *world) judgeRemote(op *requorumv1.Operation, snaps []*requorumv1.Snapshot, listed *agentv1.RemoteList) {
	named := map[string]bool{} // by manifests and by the catalog
	for _, m := range listed.GetManifests() {
		named[path.Join("etcd", clusterName, m.GetName()+".json")] = true
		for _, o := range append([]*requorumv1.StoredObject{m.GetStored()}, bundlesOf(m.GetBundles())...) {
			named[o.GetKey()] = true
			if _, sha := sums(w.bucket.objects[o.GetKey()]); sha != o.GetSha256() {
				w.wrong("remote: %s of %s is not what its manifest says", o.GetKey(), m.GetName())
			}
		}
	}
	for _, s := range snaps {
		for _, c := range s.GetRemotes() {
			named[c.GetObject().GetKey()] = true
			for _, o := range bundlesOf(c.GetBundles()) {
				named[o.GetKey()] = true
			}
			w.judgeRemoteCopy(op, s, c, listed)
		}
	}
	w.judgeManifests(op, snaps, listed)
	for key := range w.bucket.objects {
		if named[key] || strings.HasSuffix(key, ".json") && leftInRemote(op, key) {
			continue
		}
		if !leftInRemote(op, key) {
			w.wrong("remote: %s is left there, and nobody says so", key)
		}
		if !slices.Contains(listed.GetOrphans(), key) {
			w.wrong("remote: %s is left there and is not listed", key)
		}
	}
	for key := range w.bucket.parts {
		if !named[key] && !leftInRemote(op, key) {
			w.wrong("remote: a part of %s is left there", key)
		}
	}
}

// judgeManifests makes sure that the catalog knows what the remote holds.
func (w *world) judgeManifests(op *requorumv1.Operation, snaps []*requorumv1.Snapshot, listed *agentv1.RemoteList) {
	for _, m := range listed.GetManifests() {
		known := slices.ContainsFunc(snaps, func(s *requorumv1.Snapshot) bool {
			return s.GetName() == m.GetName() && len(s.GetRemotes()) > 0 && s.GetManifest().GetSha256() == m.GetSha256()
		})
		if !known && !leftInRemote(op, m.GetStored().GetKey()) && !toBeFound(op) {
			w.wrong("remote: it holds %s, and the catalog does not say so", m.GetName())
		}
	}
}

// toBeFound tells whether the operation was to enter what the remote holds into the catalog, and has not.
func toBeFound(op *requorumv1.Operation) bool {
	switch op.GetKind() {
	case requorumv1.OperationKind_OPERATION_KIND_REBUILD, requorumv1.OperationKind_OPERATION_KIND_IMPORT:
		return op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED || len(op.GetWarnings()) > 0
	}
	return false
}

func bundlesOf(bundles []*requorumv1.Bundle) (all []*requorumv1.StoredObject) {
	for _, b := range bundles {
		all = append(all, b.GetStored())
	}
	return all
}

func (w *world) judgeRemoteCopy(op *requorumv1.Operation, s *requorumv1.Snapshot, c *requorumv1.RemoteCopy, listed *agentv1.RemoteList) {
	there := slices.ContainsFunc(listed.GetManifests(), func(m *requorumv1.Manifest) bool {
		return m.GetName() == s.GetName() && m.GetSha256() == s.GetManifest().GetSha256() && m.GetStored().GetKey() == c.GetObject().GetKey()
	})
	said := c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD
	if said && !there {
		w.wrong("remote: the catalog has %s there, and it is not", s.GetName())
	}
	if !said && there && op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED && op.GetSnapshot() == s.GetName() &&
		op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE && len(op.GetWarnings()) == 0 {
		w.wrong("remote: it holds %s, which the catalog has as %s", s.GetName(), c.GetState())
	}
}

// leftInRemote tells whether the operation says that what has that key may be left.
func leftInRemote(op *requorumv1.Operation, key string) bool {
	return slices.ContainsFunc(op.GetWarnings(), func(text string) bool {
		left, _, found := strings.Cut(text, " may be left in remote "+remoteName)
		base := strings.TrimSuffix(left, ".db")
		return found && (strings.HasPrefix(key, base) || key == path.Join(path.Dir(left), op.GetSnapshot()+".json"))
	})
}

// TestSimulatedStore holds the bucket to what every object store is held to.
func TestSimulatedStore(t *testing.T) {
	objectstoretest.Run(t, func(t *testing.T) objectstore.Store {
		w := &world{t: t, bucket: newBucket()}
		w.bucket.takes = 0
		return reached{&node{w: w, name: "n1"}, newProcess("test")}
	})
}
