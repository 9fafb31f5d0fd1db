package access_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a controller's access with a clock that the test moves.
type world struct {
	*access.Access
	t     *testing.T
	ca    *pki.Authority
	store store.Store
	log   bytes.Buffer

	mu  sync.Mutex
	now time.Time
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, func(*access.Options) {})
}

func newWorldWith(t *testing.T, change func(*access.Options)) *world {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.LoadOrCreateAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := bolt.Open(filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, ca: ca, store: s, now: time.Now()}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &w.log})
	o := access.Options{Now: w.time}
	change(&o)
	w.Access = access.New(s, ca, log, o)
	return w
}

func (w *world) token(node string) pki.Token {
	w.t.Helper()
	text, _, err := w.CreateToken(context.Background(), "", "prod", node, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// enrol returns the certificate that the node gets with the token and the key.
func (w *world) enrol(token pki.Token, node string, key crypto.Signer) (*x509.Certificate, error) {
	w.t.Helper()
	certPEM, caPEM, err := w.Enroll(context.Background(), token.ID, token.Secret, node, csr(w.t, key))
	if err != nil {
		return nil, err
	}
	if string(caPEM) != string(w.ca.CAPEM()) {
		w.t.Error("not the CA's certificate")
	}
	return parse(w.t, certPEM), nil
}

func (w *world) mustEnrol(token pki.Token, node string, key crypto.Signer) *x509.Certificate {
	w.t.Helper()
	cert, err := w.enrol(token, node, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

func (w *world) renew(cert *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	w.t.Helper()
	id, err := pki.FromCertificate(cert)
	if err != nil {
		w.t.Fatal(err)
	}
	certPEM, _, err := w.Renew(context.Background(), id, cert, csr(w.t, key))
	if err != nil {
		return nil, err
	}
	return parse(w.t, certPEM), nil
}

func (w *world) check(cert *x509.Certificate, want error) {
	w.t.Helper()
	if err := w.CheckNode(context.Background(), cert); !errors.Is(err, want) {
		w.t.Errorf("check: %v, want %v", err, want)
	}
}

func (w *world) record(node string) *journalv1.NodeRecord {
	w.t.Helper()
	var record journalv1.NodeRecord
	if err := w.store.View(func(tx store.Tx) error { return store.Load(tx, store.Nodes, "prod/"+node, &record) }); err != nil {
		w.t.Fatal(err)
	}
	return &record
}

func TestNodeJoinsWithAToken(t *testing.T) {
	w, key := newWorld(t), newKey(t)
	cert := w.mustEnrol(w.token(""), "etcd-1", key)
	if id, err := pki.FromCertificate(cert); err != nil || id != pki.NodeIdentity("prod", "etcd-1") {
		t.Errorf("certificate of %s, %v", id, err)
	}
	w.check(cert, nil)
	record := w.record("etcd-1")
	if record.GetKeyFingerprint() != pki.KeyFingerprint(key.Public()) || !record.GetEnrolled().AsTime().Equal(w.time()) {
		t.Errorf("record %v", record)
	}
	var cluster journalv1.ClusterRecord
	if err := w.store.View(func(tx store.Tx) error { return store.Load(tx, store.Clusters, "prod", &cluster) }); err != nil {
		t.Fatal(err)
	}
	if cluster.GetName() != "prod" || cluster.GetGeneration() != 0 {
		t.Errorf("cluster %v", &cluster)
	}
}

func TestLaterNodeLeavesTheClusterAsItIs(t *testing.T) {
	w := newWorld(t)
	err := w.store.Update(func(tx store.Tx) error {
		return store.Save(tx, store.Clusters, "prod", &journalv1.ClusterRecord{Name: "prod", Generation: 7})
	})
	if err != nil {
		t.Fatal(err)
	}
	w.mustEnrol(w.token(""), "etcd-1", newKey(t))
	var cluster journalv1.ClusterRecord
	if err := w.store.View(func(tx store.Tx) error { return store.Load(tx, store.Clusters, "prod", &cluster) }); err != nil || cluster.GetGeneration() != 7 {
		t.Fatalf("%v, %v", &cluster, err)
	}
}

func TestTokensThatLetNobodyIn(t *testing.T) {
	w := newWorld(t)
	good, bound, other := w.token(""), w.token("etcd-2"), w.token("")
	for _, c := range []struct {
		name       string
		id, secret string
		node       string
		later      time.Duration
		want       error
	}{
		{"unknown ID", strings.Repeat("0", 16), good.Secret, "etcd-1", 0, access.ErrTokenUnknown},
		{"no ID", "", "", "etcd-1", 0, access.ErrTokenUnknown},
		{"wrong secret", good.ID, other.Secret, "etcd-1", 0, access.ErrTokenUnknown},
		{"no secret", good.ID, "", "etcd-1", 0, access.ErrTokenUnknown},
		{"expired", good.ID, good.Secret, "etcd-1", time.Hour, access.ErrTokenExpired},
		{"another node's", bound.ID, bound.Secret, "etcd-1", 0, access.ErrTokenNode},
		{"bad name", good.ID, good.Secret, "../etcd", 0, access.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.advance(c.later)
			defer w.advance(-c.later)
			_, _, err := w.Enroll(context.Background(), c.id, c.secret, c.node, csr(t, newKey(t)))
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if _, _, err := w.Enroll(context.Background(), good.ID, good.Secret, "etcd-1", []byte("x")); !errors.Is(err, access.ErrInvalid) {
		t.Errorf("bad certificate request: %v", err)
	}
	w.mustEnrol(good, "etcd-1", newKey(t)) // none of this used it up
}

func TestEnrollingAgainWithTheSameKeyAfterALostAnswer(t *testing.T) {
	w, key := newWorld(t), newKey(t)
	token := w.token("")
	first := w.mustEnrol(token, "etcd-1", key)
	second := w.mustEnrol(token, "etcd-1", key)
	w.check(first, nil)
	w.check(second, nil)
	if record := w.record("etcd-1"); len(record.GetRevokedKeys()) != 0 {
		t.Errorf("revoked %v", record.GetRevokedKeys())
	}
}

func TestTakenNodeNameNeedsATokenBoundToIt(t *testing.T) {
	w := newWorld(t)
	token := w.token("")
	cert := w.mustEnrol(token, "etcd-1", newKey(t))
	if _, err := w.enrol(token, "etcd-1", newKey(t)); !errors.Is(err, access.ErrTokenUsed) {
		t.Errorf("replay of the token: %v", err)
	}
	if _, err := w.enrol(w.token(""), "etcd-1", newKey(t)); !errors.Is(err, access.ErrNodeEnrolled) {
		t.Errorf("another token: %v", err)
	}
	w.check(cert, nil)

	bound := w.token("etcd-1")
	again := w.mustEnrol(bound, "etcd-1", newKey(t))
	w.check(cert, access.ErrRevoked)
	w.check(again, nil)
	if _, err := w.enrol(bound, "etcd-1", newKey(t)); !errors.Is(err, access.ErrTokenUsed) {
		t.Errorf("replay of the bound token: %v", err)
	}
	w.check(again, nil)
}

func TestOneTokenLetsManyNodesOfOneClusterIn(t *testing.T) {
	w := newWorld(t)
	token := w.token("")
	for _, node := range []string{"etcd-1", "etcd-2", "etcd-3"} {
		w.check(w.mustEnrol(token, node, newKey(t)), nil)
	}
}

func TestRemovedNodeIsOutUntilItHasANewTokenAndKey(t *testing.T) {
	w, key := newWorld(t), newKey(t)
	token, bound := w.token(""), w.token("etcd-1")
	cert := w.mustEnrol(token, "etcd-1", key)
	pending, err := w.renew(cert, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // removing twice is removing once
		if err := w.RemoveNode(context.Background(), "prod", "etcd-1"); err != nil {
			t.Fatal(err)
		}
	}
	if record := w.record("etcd-1"); !record.GetRemoved() || len(record.GetRevokedKeys()) != 2 {
		t.Errorf("record %v", record)
	}
	w.check(cert, access.ErrRevoked)
	w.check(pending, access.ErrRevoked)
	if err := w.CheckNode(context.Background(), cert); !strings.Contains(err.Error(), "was removed") || !strings.Contains(err.Error(), "requorum token create --cluster prod --node etcd-1") {
		t.Errorf("says: %v", err)
	}
	if _, err := w.renew(cert, newKey(t)); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("renewed: %v", err)
	}
	if _, err := w.enrol(token, "etcd-1", newKey(t)); !errors.Is(err, access.ErrTokenUsed) {
		t.Errorf("came back with its old token: %v", err)
	}
	if _, err := w.enrol(bound, "etcd-1", newKey(t)); !errors.Is(err, access.ErrTokenUnknown) {
		t.Errorf("came back with a token made before: %v", err)
	}
	if _, err := w.enrol(w.token(""), "etcd-1", key); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("came back with its old key: %v", err)
	}
	w.check(w.mustEnrol(w.token(""), "etcd-1", newKey(t)), nil)
	if err := w.RemoveNode(context.Background(), "prod", "etcd-9"); !errors.Is(err, access.ErrNodeUnknown) || !strings.Contains(err.Error(), "requorum cluster status prod shows those that are") {
		t.Errorf("removed a node that never was: %v", err)
	}
}

func TestRenewalWhoseAnswerIsLost(t *testing.T) {
	w := newWorld(t)
	old := w.mustEnrol(w.token(""), "etcd-1", newKey(t))
	lost, err := w.renew(old, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	w.check(old, nil) // the agent has nothing else
	renewed, err := w.renew(old, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	w.check(lost, access.ErrRevoked) // never used, and replaced
	w.check(old, nil)
	w.check(renewed, nil)
	w.check(old, access.ErrRevoked)
	w.check(renewed, nil)
	if _, err := w.renew(old, newKey(t)); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("renewed with a revoked key: %v", err)
	}
	w.advance(renewed.NotAfter.Add(time.Second).Sub(w.time()))
	w.check(renewed, access.ErrExpired)
}

func TestRenewalRefusesRevokedKeysAndOtherNodes(t *testing.T) {
	w, firstKey := newWorld(t), newKey(t)
	token := w.token("")
	first := w.mustEnrol(token, "etcd-1", firstKey)
	second, err := w.renew(first, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	w.check(second, nil)
	if _, err := w.renew(second, firstKey); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("went back to the first key: %v", err)
	}
	neighbour := w.mustEnrol(token, "etcd-2", newKey(t))
	_, _, err = w.Renew(context.Background(), pki.NodeIdentity("prod", "etcd-1"), neighbour, csr(t, newKey(t)))
	if !errors.Is(err, access.ErrInvalid) {
		t.Errorf("a neighbour's certificate: %v", err)
	}
}

func TestCertificateOfAnotherControllersNode(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	w.check(other.mustEnrol(other.token(""), "etcd-1", newKey(t)), access.ErrNodeUnknown)
}

func TestRepeatedRequestGetsTheSameToken(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first, expires, err := w.CreateToken(ctx, "req-1", "prod", "etcd-1", 2*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !expires.Equal(w.time().Add(2 * time.Hour)) {
		t.Errorf("expires %s", expires)
	}
	w.advance(time.Hour)
	again, sameExpiry, err := w.CreateToken(ctx, "req-1", "prod", "etcd-1", 2*time.Hour)
	if err != nil || again != first || !sameExpiry.Equal(expires) {
		t.Errorf("another token until %s, %v", sameExpiry, err)
	}
	for name, f := range map[string]func() (string, time.Time, error){
		"another cluster": func() (string, time.Time, error) { return w.CreateToken(ctx, "req-1", "dev", "etcd-1", 0) },
		"another node":    func() (string, time.Time, error) { return w.CreateToken(ctx, "req-1", "prod", "", 0) },
	} {
		if _, _, err := f(); !errors.Is(err, access.ErrRequestReused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if other, _, err := w.CreateToken(ctx, "req-2", "prod", "etcd-1", 0); err != nil || other == first {
		t.Errorf("another request gets the same token, %v", err)
	}
	if first, second := w.token(""), w.token(""); first == second {
		t.Error("without a request ID two tokens are the same")
	}
}

func TestTokenRequestsThatMakeNoSense(t *testing.T) {
	w := newWorld(t)
	for name, f := range map[string]func() (string, time.Time, error){
		"no cluster":  func() (string, time.Time, error) { return w.CreateToken(context.Background(), "", "", "", 0) },
		"bad cluster": func() (string, time.Time, error) { return w.CreateToken(context.Background(), "", "a:b", "", 0) },
		"bad node":    func() (string, time.Time, error) { return w.CreateToken(context.Background(), "", "prod", "a/b", 0) },
		"bad time":    func() (string, time.Time, error) { return w.CreateToken(context.Background(), "", "prod", "", -1) },
	} {
		if _, _, err := f(); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretsAreNeitherStoredNorLogged(t *testing.T) {
	w := newWorld(t)
	token := w.token("")
	w.mustEnrol(token, "etcd-1", newKey(t))
	err := w.store.View(func(tx store.Tx) error {
		return tx.Each(store.Tokens, "", func(_ string, value []byte) error {
			if bytes.Contains(value, []byte(token.Secret)) {
				t.Error("the secret is in the store")
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.log.String(), token.Secret) || !strings.Contains(w.log.String(), token.ID) {
		t.Errorf("log: %s", w.log.String())
	}
}

func TestOldTokensAreForgotten(t *testing.T) {
	w := newWorld(t)
	old := w.token("")
	w.advance(32 * 24 * time.Hour)
	w.token("")
	if _, err := w.enrol(old, "etcd-1", newKey(t)); !errors.Is(err, access.ErrTokenUnknown) {
		t.Errorf("still there: %v", err)
	}
}

func TestOperatorCertificates(t *testing.T) {
	w := newWorld(t)
	issue := func(name string, role requorumv1.Role, ttl time.Duration) ([]byte, error) {
		certPEM, _, err := w.IssueOperator(context.Background(), csr(t, newKey(t)), name, role, ttl)
		return certPEM, err
	}
	certPEM, err := issue("alice", requorumv1.Role_ROLE_ADMIN, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, certPEM)
	if id, err := pki.FromCertificate(cert); err != nil || id != pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "alice") {
		t.Errorf("%s, %v", id, err)
	}
	if life := time.Until(cert.NotAfter); life > time.Hour || life < 59*time.Minute {
		t.Errorf("good for %s", life)
	}
	w.check(cert, access.ErrInvalid) // not a node's
	for name, f := range map[string]func() ([]byte, error){
		"no name": func() ([]byte, error) { return issue("", requorumv1.Role_ROLE_ADMIN, 0) },
		"no role": func() ([]byte, error) { return issue("eve", requorumv1.Role_ROLE_UNSPECIFIED, 0) },
		"no life": func() ([]byte, error) { return issue("eve", requorumv1.Role_ROLE_ADMIN, -1) },
	} {
		if _, err := f(); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
