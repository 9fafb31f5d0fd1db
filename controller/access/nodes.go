package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/pki"
)

// maxRevoked bounds the list of a node's revoked keys. Dropping the oldest does not make them good
// again, since only the current and the next key are.
const maxRevoked = 128

// Enroll exchanges a join token and a certificate request for a node's certificate, and returns it with
// the CA's. The token says for which cluster.
//
// A token lets each node in once. The same token with the same key has the same effect again, with a
// new certificate, for an agent that lost the answer. The name of an enrolled node is taken
// (ErrNodeEnrolled), except for a token bound to that node: it enrols the node again and revokes the
// keys that it had.
//
// A source that fails too often has to wait: ErrTooMany.
func (a *Access) Enroll(ctx context.Context, tokenID, secret, node string, csr []byte) (certPEM, caPEM []byte, err error) {
	if err := a.MayTryToEnroll(ctx); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			a.failures.spend(sourceOf(ctx))
			a.refused(ctx, "enrolment refused", "node", shortened(node), "reason", shortened(err.Error()))
		}
	}()
	fail := func(err error) ([]byte, []byte, error) { return nil, nil, fmt.Errorf("enrol node %s: %w", node, err) }
	if err := names.Check("node", node); err != nil {
		return nil, nil, fmt.Errorf("enrol a node: %w: %w", ErrInvalid, err)
	}
	check := func(tx store.Tx) error { _, err := a.checkToken(tx, tokenID, secret, node); return err }
	if err := a.store.View(check); err != nil { // before anything that costs more
		return fail(err)
	}
	pub, err := pki.PublicKeyFromCSR(csr)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	var cluster string
	var revoked []string
	err = a.store.Update(func(tx store.Tx) error {
		token, err := a.checkToken(tx, tokenID, secret, node)
		if err != nil {
			return err
		}
		cluster = token.GetCluster()
		if revoked, err = a.enroll(tx, token, node, pki.KeyFingerprint(pub)); err != nil {
			return err
		}
		certPEM, err = a.authority.Issue(pub, pki.NodeIdentity(cluster, node), a.options.NodeTTL, nil)
		return err
	})
	if err != nil {
		return fail(err)
	}
	a.keysChanged(cluster, node, revoked)
	a.log.Info("node enrolled", "cluster", cluster, "node", node, "token", tokenID)
	return certPEM, a.authority.CAPEM(), nil
}

// MayTryToEnroll fails with ErrTooMany for a source that has failed too often.
func (a *Access) MayTryToEnroll(ctx context.Context) error {
	if from := sourceOf(ctx); !a.failures.left(from) {
		return fmt.Errorf("%w from %s; try again in a while", ErrTooMany, from)
	}
	return nil
}

// shortened returns what fits in a line of the log.
func shortened(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// enroll writes the records of a node that comes with a good token and the key, and returns the keys that this revokes.
func (a *Access) enroll(tx store.Tx, token *journalv1.TokenRecord, node, key string) (revoked []string, err error) {
	cluster := token.GetCluster()
	record, err := loadNode(tx, cluster, node)
	if errors.Is(err, ErrNodeUnknown) {
		record, err = &journalv1.NodeRecord{Cluster: cluster, Name: node}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := mayEnroll(record, token, key); err != nil {
		return nil, err
	}
	if key != record.GetKeyFingerprint() && key != record.GetNextKeyFingerprint() {
		revoked = revokeKeys(record)
		record.KeyFingerprint = key
		record.Enrolled = timestamppb.New(a.options.Now())
	}
	record.Removed = false
	if !usedBy(token, node) {
		token.UsedBy = append(token.UsedBy, node)
	}
	return revoked, errors.Join(
		saveNode(tx, record),
		store.Save(tx, store.Tokens, token.GetId(), token),
		addCluster(tx, cluster),
	)
}

func mayEnroll(record *journalv1.NodeRecord, token *journalv1.TokenRecord, key string) error {
	enrolled := record.GetKeyFingerprint() != "" && !record.GetRemoved()
	advice := newTokenAdvice(record.GetCluster(), record.GetName())
	switch {
	case slices.Contains(record.GetRevokedKeys(), key):
		return fmt.Errorf("%w; remove the agent's credentials and pending key so that it makes a new one, then %s", ErrRevoked, advice)
	case enrolled && (key == record.GetKeyFingerprint() || key == record.GetNextKeyFingerprint()):
		return nil
	case usedBy(token, record.GetName()):
		return fmt.Errorf("%w; %s", ErrTokenUsed, advice)
	case enrolled && token.GetNode() != record.GetName():
		return fmt.Errorf("%w in cluster %s; choose another name, or if this is the same machine set up anew, %s", ErrNodeEnrolled, record.GetCluster(), advice)
	}
	return nil
}

// addCluster makes the record of a cluster whose first node comes.
func addCluster(tx store.Tx, cluster string) error {
	_, err := tx.Get(store.Clusters, cluster)
	if errors.Is(err, store.ErrNotFound) {
		return store.Save(tx, store.Clusters, cluster, &journalv1.ClusterRecord{Name: cluster})
	}
	return err
}

// Renew exchanges a certificate request for a new certificate of the node id, which calls with cert.
// The new key is good at once, and the old one stays good until the new one is first used: an agent
// that lost the answer asks again with its old key.
func (a *Access) Renew(_ context.Context, id pki.Identity, cert *x509.Certificate, csr []byte) (certPEM, caPEM []byte, err error) {
	fail := func(err error) ([]byte, []byte, error) {
		return nil, nil, fmt.Errorf("renew certificate of %s: %w", id, err)
	}
	pub, err := pki.PublicKeyFromCSR(csr)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	if holder, err := pki.FromCertificate(cert); err != nil || holder != id || id.Kind != pki.Node {
		return fail(fmt.Errorf("%w: the certificate is not that node's", ErrInvalid))
	}
	var revoked []string
	err = a.store.Update(func(tx store.Tx) error {
		record, old, err := a.admit(tx, id, cert)
		if err != nil {
			return err
		}
		revoked = old
		key := pki.KeyFingerprint(pub)
		if slices.Contains(record.GetRevokedKeys(), key) {
			return fmt.Errorf("%w; ask with a new key", ErrRevoked)
		}
		if key != record.GetKeyFingerprint() {
			record.NextKeyFingerprint = key
		}
		if err := saveNode(tx, record); err != nil {
			return err
		}
		certPEM, err = a.authority.Issue(pub, id, a.options.NodeTTL, nil)
		return err
	})
	if err != nil {
		return fail(err)
	}
	a.keysChanged(id.Cluster, id.Node, revoked)
	a.log.Info("certificate renewed", "cluster", id.Cluster, "node", id.Node)
	return certPEM, a.authority.CAPEM(), nil
}

// CheckNode returns nil if cert, which TLS has verified, is good for its node now. The first check of a
// renewed certificate revokes the one before it. The error is ErrExpired, ErrRevoked or ErrNodeUnknown,
// or else the store's.
func (a *Access) CheckNode(_ context.Context, cert *x509.Certificate) error {
	id, err := pki.FromCertificate(cert)
	if err != nil {
		return err
	}
	if id.Kind != pki.Node {
		return fmt.Errorf("%w: the certificate is of %s, not of a node", ErrInvalid, id)
	}
	var fresh bool
	err = a.store.View(func(tx store.Tx) error {
		record, err := loadNode(tx, id.Cluster, id.Node)
		if err != nil {
			return err
		}
		fresh = pki.CertificateKey(cert) == record.GetNextKeyFingerprint()
		return a.standing(record, cert)
	})
	if err != nil || !fresh {
		return err
	}
	var revoked []string
	err = a.store.Update(func(tx store.Tx) error {
		record, old, err := a.admit(tx, id, cert)
		if err != nil {
			return err
		}
		revoked = old
		return saveNode(tx, record)
	})
	if err == nil {
		a.keysChanged(id.Cluster, id.Node, revoked)
		a.log.Info("renewed certificate in use, the one before it is revoked", "cluster", id.Cluster, "node", id.Node)
	}
	return err
}

// admit returns the record of a node whose certificate is good, with the certificate's key as the
// current one, and the keys that this revokes. The caller saves it.
func (a *Access) admit(tx store.Tx, id pki.Identity, cert *x509.Certificate) (record *journalv1.NodeRecord, revoked []string, err error) {
	record, err = loadNode(tx, id.Cluster, id.Node)
	if err != nil {
		return nil, nil, err
	}
	if err := a.standing(record, cert); err != nil {
		return nil, nil, err
	}
	if key := pki.CertificateKey(cert); key == record.GetNextKeyFingerprint() {
		record.NextKeyFingerprint = ""
		revoked = revokeKeys(record)
		record.KeyFingerprint = key
	}
	return record, revoked, nil
}

// keysChanged ends the calls made with keys that are revoked now, and tells whom it concerns.
func (a *Access) keysChanged(cluster, node string, revoked []string) {
	for _, key := range revoked {
		a.calls.revoke(nodeKey(key), fmt.Errorf("node %s of cluster %s: %w", node, cluster, ErrRevoked))
	}
	a.options.KeysChanged(cluster, node)
}

// standing returns nil if the certificate's key is the current or the next one of the node.
func (a *Access) standing(record *journalv1.NodeRecord, cert *x509.Certificate) error {
	advice := newTokenAdvice(record.GetCluster(), record.GetName())
	key := pki.CertificateKey(cert)
	switch {
	case a.options.Now().After(cert.NotAfter):
		return fmt.Errorf("node %s of cluster %s: %w; let the agent connect with its renewed one, or %s", record.GetName(), record.GetCluster(), ErrExpired, advice)
	case record.GetRemoved():
		return fmt.Errorf("node %s of cluster %s was removed: %w; to let it in again, %s", record.GetName(), record.GetCluster(), ErrRevoked, advice)
	case key == "" || key != record.GetKeyFingerprint() && key != record.GetNextKeyFingerprint():
		return fmt.Errorf("node %s of cluster %s has another key now: %w; if this is the right machine, %s", record.GetName(), record.GetCluster(), ErrRevoked, advice)
	}
	return nil
}

// RemoveNode revokes a node's keys and marks its record removed. Join tokens bound to the node die with
// it. Removing it again does nothing.
func (a *Access) RemoveNode(ctx context.Context, cluster, node string) error {
	var revoked []string
	err := a.store.Update(func(tx store.Tx) error {
		record, err := loadNode(tx, cluster, node)
		if err != nil {
			return err
		}
		revoked = revokeKeys(record)
		record.Removed = true
		if err := saveNode(tx, record); err != nil {
			return err
		}
		return eachToken(tx, func(token *journalv1.TokenRecord) error {
			if token.GetCluster() != cluster || token.GetNode() != node {
				return nil
			}
			return tx.Delete(store.Tokens, token.GetId())
		})
	})
	if err != nil {
		return fmt.Errorf("remove node %s of cluster %s: %w", node, cluster, err)
	}
	a.keysChanged(cluster, node, revoked)
	a.log.Info("node removed", "cluster", cluster, "node", node, "by", caller(ctx))
	return nil
}

// revokeKeys makes every key of the node bad and returns those that were good.
func revokeKeys(record *journalv1.NodeRecord) (revoked []string) {
	for _, key := range []string{record.GetKeyFingerprint(), record.GetNextKeyFingerprint()} {
		if key != "" && !slices.Contains(record.GetRevokedKeys(), key) {
			revoked = append(revoked, key)
		}
	}
	record.RevokedKeys = append(record.RevokedKeys, revoked...)
	record.KeyFingerprint, record.NextKeyFingerprint = "", ""
	if extra := len(record.GetRevokedKeys()) - maxRevoked; extra > 0 {
		record.RevokedKeys = slices.Clone(record.RevokedKeys[extra:])
	}
	return revoked
}

func loadNode(tx store.Tx, cluster, node string) (*journalv1.NodeRecord, error) {
	var record journalv1.NodeRecord
	err := store.Load(tx, store.Nodes, cluster+"/"+node, &record)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: no node %s of cluster %s is enrolled with this controller; requorum cluster status %s shows those that are", ErrNodeUnknown, node, cluster, cluster)
	}
	return &record, err
}

func saveNode(tx store.Tx, record *journalv1.NodeRecord) error {
	return store.Save(tx, store.Nodes, record.GetCluster()+"/"+record.GetName(), record)
}
