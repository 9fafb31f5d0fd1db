package task

import (
	"context"
	"errors"
	"io"
	"path"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/remote"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore"
)

// inRemote calls f with an open remote. While something is tried again, the progress tells why.
func (n *Node) inRemote(r *agentv1.Remote, p *Progress, f func(objectstore.Store) error) error {
	var failing atomic.Bool
	moved := func() {
		if failing.Swap(false) {
			p.Detail("")
			return
		}
		p.Tick()
	}
	store, err := n.Remote(r, moved, func(err error) {
		failing.Store(true)
		p.Detail("trying again: " + err.Error())
	})
	if err != nil {
		return err
	}
	err = f(store)
	if marker := store.Marker(); marker != "" {
		p.Marker(marker)
	}
	return errors.Join(err, store.Close())
}

// upload stores a copy in a remote.
func (n *Node) upload(ctx context.Context, spec *agentv1.UploadCopy, p *Progress) (*agentv1.TaskResult, error) {
	m := spec.GetManifest()
	total := m.GetSize()
	if encryptedHere(m.GetLocal()) {
		total = m.GetLocal().GetSize()
	}
	open := func() (io.ReadCloser, error) { return n.openForRemote(m) }
	var stored *requorumv1.StoredObject
	err := n.inRemote(spec.GetRemote(), p, func(s objectstore.Store) (err error) {
		stored, err = remote.Upload(ctx, s, m, spec.GetObject(), open, func(done int64) { p.Bytes(done, total) })
		return err
	})
	if taken, is := errors.AsType[*remote.TakenError](err); is {
		return nil, &Refused{Message: taken.Error(), Advice: "choose another name, or see what it is (requorum remote snapshots)"}
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Stored{Stored: stored}}, err
}

// download makes the vault hold a copy from a remote, unless it holds a good one. A copy that is not good goes once the
// remote has shown that it has another.
func (n *Node) download(ctx context.Context, spec *agentv1.DownloadCopy, p *Progress) (*agentv1.TaskResult, error) {
	m := spec.GetManifest()
	described := withoutStored(m)
	switch n.hashCopy(ctx, described, p).GetState() {
	case requorumv1.CopyState_COPY_STATE_GOOD:
		if m.GetLocal() != nil || spec.GetSealing() == nil {
			return asKnown(m), nil
		}
	case requorumv1.CopyState_COPY_STATE_UNKNOWN:
		return nil, context.Cause(ctx)
	}
	var facts *agentv1.CopyFacts
	err := n.inRemote(spec.GetRemote(), p, func(s objectstore.Store) error {
		if _, err := s.Stat(ctx, m.GetStored().GetKey()); err != nil {
			return err
		}
		if err := n.Vault.Drop(m.GetName()); err != nil {
			return err
		}
		var err error
		if asStored(m.GetLocal(), m.GetStored()) {
			return n.receiveSealed(ctx, s, spec, p)
		}
		facts, err = n.receive(ctx, s, spec, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	if facts == nil { // the very file that the controller knows
		return asKnown(m), n.Vault.WriteManifest(described)
	}
	described.Local = facts.GetLocal()
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: facts}}, n.Vault.WriteManifest(described)
}

// asKnown tells the controller that the copy is sealed as the manifest says. An agent that knows nothing of seals cannot tell it.
func asKnown(m *requorumv1.Manifest) *agentv1.TaskResult {
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: &agentv1.CopyFacts{Size: m.GetSize(), Md5: m.GetMd5(), Sha256: m.GetSha256(), Local: m.GetLocal()}}}
}

// receiveSealed writes the sealed file, which is put in place only if it is the right one.
func (n *Node) receiveSealed(ctx context.Context, s objectstore.Store, spec *agentv1.DownloadCopy, p *Progress) error {
	m := spec.GetManifest()
	if n.Sealed == nil {
		return errNotSealing
	}
	w, err := n.Sealed.Resume(ctx, withoutStored(m), nil)
	if err != nil {
		return err
	}
	if err := remote.DownloadSealed(ctx, s, m.GetStored(), w, func(done int64) { p.Bytes(done, m.GetStored().GetSize()) }); err != nil {
		return errors.Join(err, w.Discard())
	}
	_, err = w.Commit()
	return err
}

// receive writes a file that is put in place only if it is the right one.
func (n *Node) receive(ctx context.Context, s objectstore.Store, spec *agentv1.DownloadCopy, p *Progress) (*agentv1.CopyFacts, error) {
	m := spec.GetManifest()
	w, err := n.create(m.GetName(), spec.GetSealing())
	if err != nil {
		return nil, err
	}
	if err := w.Expect(m.GetSize()); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	if err := remote.Download(ctx, s, m, spec.GetIdentity(), w, func(done int64) { p.Bytes(done, m.GetSize()) }); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	facts, err := n.commit(ctx, w, p)
	if err == nil && (facts.GetSha256() != m.GetSha256() || facts.GetMd5() != m.GetMd5()) { // as written to the disk
		err = errors.Join(&remote.CorruptError{Key: m.GetName(), Detail: "it was not written as it was received"}, n.Vault.Drop(m.GetName()))
	}
	return facts, err
}

// withoutStored is a manifest as it stands beside a copy on a node.
func withoutStored(m *requorumv1.Manifest) *requorumv1.Manifest {
	plain := proto.CloneOf(m)
	plain.Stored = nil
	return plain
}

func (n *Node) dropRemote(ctx context.Context, spec *agentv1.DropRemote, p *Progress) error {
	return n.inRemote(spec.GetRemote(), p, func(s objectstore.Store) error {
		return remote.Drop(ctx, s, spec.GetName(), spec.GetKey(), spec.GetBundles()...)
	})
}

func (n *Node) listRemote(ctx context.Context, spec *agentv1.ListRemote, p *Progress) (*agentv1.TaskResult, error) {
	var list *agentv1.RemoteList
	err := n.inRemote(spec.GetRemote(), p, func(s objectstore.Store) (err error) {
		list, err = remote.List(ctx, s, path.Clean(spec.GetFolder()), spec.GetName())
		return err
	})
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Remote{Remote: list}}, err
}
