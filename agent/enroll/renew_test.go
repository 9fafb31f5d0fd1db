package enroll_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/internal/pki"
)

// renewer is a controller without a network, for time that a test moves.
type renewer struct {
	*controller
	failing func() bool
	renewed []time.Time
	closed  int
}

func (r *renewer) Renew(_ context.Context, req *agentv1.RenewRequest, _ ...grpc.CallOption) (*agentv1.RenewResponse, error) {
	if r.failing() {
		return nil, status.Error(codes.Unavailable, "away")
	}
	r.renewed = append(r.renewed, time.Now())
	certPEM, err := r.sign(req.GetCsr(), pki.NodeIdentity("prod", "etcd-1"))
	return &agentv1.RenewResponse{Certificate: certPEM, Ca: r.ca.CAPEM()}, err
}

func (r *renewer) Enroll(context.Context, *agentv1.EnrollRequest, ...grpc.CallOption) (*agentv1.EnrollResponse, error) {
	return nil, status.Error(codes.Unimplemented, "nobody enrols here")
}

func (r *renewer) Close() error { r.closed++; return nil }

func (r *renewer) dial(context.Context) (agentv1.EnrollServiceClient, io.Closer, error) {
	return r, r, nil
}

func newRenewer(t *testing.T, ttl time.Duration) (*renewer, *pki.Credentials) {
	t.Helper()
	r := &renewer{controller: newController(t), failing: func() bool { return false }}
	r.ttl = ttl
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := r.ca.Issue(key.Public(), pki.NodeIdentity("prod", "etcd-1"), ttl, nil)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(certPEM, pemOf(t, key), r.ca.CAPEM())
	if err != nil {
		t.Fatal(err)
	}
	return r, creds
}

func TestRenewsAtTwoThirdsOfTheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 90 * 24 * time.Hour
		r, creds := newRenewer(t, ttl)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 170*24*time.Hour)
		defer cancel()
		if err := enroll.KeepFresh(ctx, creds, r.dial, hclog.NewNullLogger()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(r.renewed) != 2 || r.closed != 2 {
			t.Fatalf("renewed at %v, closed %d connections", r.renewed, r.closed)
		}
		if after := r.renewed[0].Sub(start); after < 56*24*time.Hour || after > 60*24*time.Hour+time.Hour {
			t.Errorf("renewed after %s", after)
		}
		if len(r.keys) != 2 || r.keys[0] == r.keys[1] {
			t.Errorf("keys %v", r.keys)
		}
	})
}

func TestRenewalIsTriedUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, creds := newRenewer(t, 90*time.Hour)
		back := time.Now().Add(75 * time.Hour)
		r.failing = func() bool { return time.Now().Before(back) }
		ctx, cancel := context.WithTimeout(t.Context(), 80*time.Hour)
		defer cancel()
		if err := enroll.KeepFresh(ctx, creds, r.dial, hclog.NewNullLogger()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(r.renewed) != 1 || r.renewed[0].Sub(back) > 6*time.Minute {
			t.Fatalf("the controller is back at %s, renewed at %v", back, r.renewed)
		}
		if r.closed < 50 {
			t.Errorf("only %d attempts in 15 hours", r.closed)
		}
	})
}

func TestControllerThatStaysAwayEndsInAnExpiredCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, creds := newRenewer(t, 90*time.Hour)
		r.failing = func() bool { return true }
		start := time.Now()
		if err := enroll.KeepFresh(t.Context(), creds, r.dial, hclog.NewNullLogger()); !errors.Is(err, enroll.ErrExpired) {
			t.Fatal(err)
		}
		if gone := time.Since(start); gone < 89*time.Hour || gone > 91*time.Hour {
			t.Errorf("gave up after %s", gone)
		}
	})
}

func TestCredentialsThatAreReplacedElsewhereAreNotDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, creds := newRenewer(t, 3*time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Hour)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- enroll.KeepFresh(ctx, creds, r.dial, hclog.NewNullLogger()) }()
		synctest.Wait()
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		certPEM, err := r.ca.Issue(key.Public(), creds.Identity(), 90*time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := creds.Replace(certPEM, pemOf(t, key), r.ca.CAPEM()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) || len(r.renewed) != 0 {
			t.Errorf("renewed at %v: %v", r.renewed, err)
		}
	})
}
