package task

import (
	"context"
	"errors"
	"io"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/seal"
)

var errNotSealing = &Refused{Message: "this agent neither seals copies nor opens them", Advice: "upgrade the agent"}

// create starts a new copy, sealed if that is asked for.
func (n *Node) create(name string, s *requorumv1.Sealing) (Writer, error) {
	o := seal.OptionsOf(s)
	if o.None() {
		return n.Vault.Create(name)
	}
	if n.Sealed == nil {
		return nil, errNotSealing
	}
	w, err := n.Sealed.CreateSealed(name, o)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// commit gives a copy its name. Of a sealed one it first reads what nobody here may be able to read later.
func (n *Node) commit(ctx context.Context, w Writer, p *Progress) (*agentv1.CopyFacts, error) {
	sealed, is := w.(*vault.SealedWriter)
	if !is {
		return w.Commit()
	}
	p.Detail("inspecting")
	m, err := n.disk().Inspect(ctx, sealed.PlainPath(), p.read)
	if err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	facts, err := w.Commit()
	if err != nil {
		return nil, err
	}
	facts.Inspected = m
	return facts, nil
}

// importFile takes a file into the vault, sealed if that is asked for.
func (n *Node) importFile(ctx context.Context, spec *agentv1.ImportCopy, p *Progress) (*agentv1.CopyFacts, error) {
	o := seal.OptionsOf(spec.GetSealing())
	if o.None() {
		return n.Vault.Import(ctx, spec.GetName(), spec.GetPath(), spec.GetSkipHashCheck(), p.Bytes)
	}
	if n.Sealed == nil {
		return nil, errNotSealing
	}
	var inspected *requorumv1.Manifest
	facts, err := n.Sealed.ImportSealed(ctx, spec.GetName(), spec.GetPath(), spec.GetSkipHashCheck(), o, p.Bytes, func(path string) (err error) {
		inspected, err = n.disk().Inspect(ctx, path, p.read)
		return err
	})
	if err != nil {
		return nil, err
	}
	facts.Inspected = inspected
	return facts, nil
}

// withPlain calls f with a path of the copy in the clear. The file of a sealed one is gone afterwards.
func (n *Node) withPlain(ctx context.Context, m *requorumv1.Manifest, identity string, p *Progress, f func(path string) error) error {
	if m.GetLocal() == nil {
		path, err := n.Vault.Path(m.GetName())
		if err != nil {
			return err
		}
		return f(path)
	}
	if n.Sealed == nil {
		return errNotSealing
	}
	p.Detail("opening the sealed copy")
	plain, err := n.Sealed.Plain(ctx, m, identity, p.Bytes)
	if err != nil {
		return err
	}
	return errors.Join(f(plain.Path), plain.Close())
}

// asStored tells whether what is in a remote is the very file that the nodes hold, or are to hold: it passes between the
// two without being opened.
func asStored(local, stored *requorumv1.StoredObject) bool {
	return local != nil && local.GetSha256() == stored.GetSha256() && local.GetSize() == stored.GetSize()
}

// encryptedHere tells whether a copy cannot be opened without an identity.
func encryptedHere(local *requorumv1.StoredObject) bool { return len(local.GetRecipients()) > 0 }

// openForRemote opens a copy as a remote is to store it: an encrypted one as it is, and others in the clear.
func (n *Node) openForRemote(m *requorumv1.Manifest) (io.ReadCloser, error) {
	if l := m.GetLocal(); l != nil && !encryptedHere(l) {
		if n.Sealed == nil {
			return nil, errNotSealing
		}
		return n.Sealed.Open(m, "")
	}
	return n.Vault.Open(m.GetName())
}
