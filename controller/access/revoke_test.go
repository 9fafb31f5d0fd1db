package access_test

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/internal/pki"
)

// operator returns a certificate that was issued over the API.
func (w *world) operator(name string, role requorumv1.Role, ttl time.Duration) (*x509.Certificate, *pki.Credentials) {
	w.t.Helper()
	key := newKey(w.t)
	certPEM, caPEM, err := w.IssueOperator(context.Background(), csr(w.t, key), name, role, ttl)
	if err != nil {
		w.t.Fatal(err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		w.t.Fatal(err)
	}
	creds, err := pki.NewCredentials(certPEM, keyPEM, caPEM)
	if err != nil {
		w.t.Fatal(err)
	}
	return creds.Certificate(), creds
}

func (w *world) listed() []*requorumv1.OperatorCertificate {
	w.t.Helper()
	all, err := w.Operators()
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func TestOperatorCertificatesAreListedUntilTheyExpire(t *testing.T) {
	w := newWorld(t)
	bob, _ := w.operator("bob", requorumv1.Role_ROLE_VIEWER, time.Hour)
	w.operator("alice", requorumv1.Role_ROLE_ADMIN, 2*time.Hour)
	all := w.listed()
	if len(all) != 2 || all[0].GetName() != "alice" || all[1].GetName() != "bob" {
		t.Fatalf("%v", all)
	}
	if c := all[1]; c.GetSerial() != bob.SerialNumber.Text(16) || c.GetRole() != requorumv1.Role_ROLE_VIEWER || !c.GetExpires().AsTime().Equal(bob.NotAfter) || c.GetRevoked() != nil {
		t.Errorf("%v", c)
	}
	w.advance(90 * time.Minute)
	if all := w.listed(); len(all) != 1 || all[0].GetName() != "alice" {
		t.Errorf("after bob's has expired: %v", all)
	}
}

func TestRevokedOperatorIsRefusedAndTheOthersAreNot(t *testing.T) {
	w := newWorld(t)
	bob, _ := w.operator("bob", requorumv1.Role_ROLE_VIEWER, 0)
	w.advance(time.Minute) // they are listed in the order in which they were issued
	again, _ := w.operator("bob", requorumv1.Role_ROLE_VIEWER, 0)
	serial := strings.ToUpper(bob.SerialNumber.Text(16))
	for range 2 {
		revoked, err := w.RevokeOperator(context.Background(), serial)
		if err != nil || revoked.GetName() != "bob" || revoked.GetRevoked() == nil {
			t.Fatalf("%v, %v", revoked, err)
		}
		w.advance(time.Minute) // the second time changes nothing, not even the time
	}
	if err := w.CheckOperator(bob); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("the revoked one: %v", err)
	}
	if err := w.CheckOperator(again); err != nil {
		t.Errorf("the other one of the same name: %v", err)
	}
	if revoked := w.listed()[0].GetRevoked(); revoked == nil || w.time().Sub(revoked.AsTime()) < 2*time.Minute {
		t.Errorf("revoked at %v", revoked.AsTime())
	}
}

// A controller that came back from an older copy of its data does not know what it has issued since.
func TestCertificateThatIsNotKnownCanBeRevoked(t *testing.T) {
	s := startServer(t)
	creds := s.credentials("admin") // signed, not noted
	if err := s.CheckOperator(creds.Certificate()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeOperator(context.Background(), creds.Certificate().SerialNumber.Text(16)); err != nil {
		t.Fatal(err)
	}
	if got := call(t, s.dial(creds), "requorum.v1.ClusterService/ListClusters"); got != codes.Unauthenticated {
		t.Errorf("%s", got)
	}
}

func TestWhatIsNoSerialNumberCannotBeRevoked(t *testing.T) {
	w := newWorld(t)
	for _, serial := range []string{"", "0", "-1", "bob", strings.Repeat("f", 41), "1 2"} {
		if _, err := w.RevokeOperator(context.Background(), serial); !errors.Is(err, access.ErrInvalid) {
			t.Errorf("%q: %v", serial, err)
		}
	}
}

func TestRevocationEndsTheCallsUnderWay(t *testing.T) {
	s := startServer(t)
	cert, creds := s.operator("bob", requorumv1.Role_ROLE_VIEWER, 0)
	client := requorumv1.NewOperationServiceClient(s.dial(creds))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	watch, err := client.WatchOperation(ctx, &requorumv1.WatchOperationRequest{Id: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := client.WaitOperation(ctx, &requorumv1.WaitOperationRequest{Id: "1"})
		waited <- err
	}()
	if _, err := s.RevokeOperator(context.Background(), cert.SerialNumber.Text(16)); err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("the stream: %v", err)
	}
	if err := <-waited; status.Code(err) != codes.Unauthenticated {
		t.Errorf("the call that waits: %v", err)
	}
	if got := call(t, s.dial(creds), "requorum.v1.ClusterService/ListClusters"); got != codes.Unauthenticated {
		t.Errorf("a new call: %s", got)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "operator bob (viewer)") || !strings.Contains(s.log.String(), "the key is revoked") {
		t.Errorf("the log does not say who was refused and why: %s", s.log.String())
	}
}

func TestEveryChangeOfANodesKeysIsTold(t *testing.T) {
	var told []string
	w := newWorldWith(t, func(o *access.Options) {
		o.KeysChanged = func(cluster, node string) { told = append(told, cluster+"/"+node) }
	})
	want := func(what string) {
		t.Helper()
		if len(told) != 1 || told[0] != "prod/etcd-1" {
			t.Errorf("%s: told of %v", what, told)
		}
		told = nil
	}
	cert := w.mustEnrol(w.token("etcd-1"), "etcd-1", newKey(t))
	want("enrolled")
	renewed, err := w.renew(cert, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	want("renewed")
	w.check(renewed, nil)
	want("first used")
	w.check(renewed, nil)
	if len(told) != 0 {
		t.Errorf("a second use told of %v", told)
	}
	if err := w.RemoveNode(context.Background(), "prod", "etcd-1"); err != nil {
		t.Fatal(err)
	}
	want("removed")
}
