package enroll

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/internal/pki"
)

const (
	longestSleep = time.Hour   // so that a clock that is set, or a machine that slept, is noticed
	leastSleep   = time.Second // so that a certificate that is always due cannot make a busy loop
)

// Dialer makes a client of the controller's enrolment service for one renewal, and says how to close it.
type Dialer func(ctx context.Context) (agentv1.EnrollServiceClient, io.Closer, error)

// Controller returns a Dialer for the controller at address, with the node's credentials.
func Controller(address string, creds *pki.Credentials) Dialer {
	return func(context.Context) (agentv1.EnrollServiceClient, io.Closer, error) {
		config := pki.ClientTLS(creds, pki.ControllerIdentity())
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return nil, nil, fmt.Errorf("dial controller %s: %w", address, err)
		}
		return agentv1.NewEnrollServiceClient(conn), conn, nil
	}
}

// KeepFresh renews the node's certificate at two thirds of its life, give or take a little so that the
// nodes do not all come at once, and retries until that works. Connections that are open keep the old
// certificate, which the first use of the new one revokes: (*pki.Credentials).Changed says when to
// dial again. KeepFresh returns the cause of ctx's end, or an ErrExpired once it is too late.
func KeepFresh(ctx context.Context, creds *pki.Credentials, dial Dialer, log hclog.Logger) error {
	for {
		if err := untilDue(ctx, creds); err != nil {
			return err
		}
		if err := renewUntilDone(ctx, creds, dial, log); err != nil {
			return err
		}
		id := creds.Identity()
		log.Info("certificate renewed", "cluster", id.Cluster, "node", id.Node, "expires", creds.NotAfter())
	}
}

// untilDue returns when it is time to renew. It looks again whenever the credentials are replaced.
func untilDue(ctx context.Context, creds *pki.Credentials) error {
	early := rand.Float64() / 10 // of the life that is left when renewal is due
	for {
		changed := creds.Changed() // before the certificate is looked at
		due := creds.RenewAfter()
		due = due.Add(-time.Duration(early * float64(creds.NotAfter().Sub(due))))
		timer := time.NewTimer(max(leastSleep, min(time.Until(due), longestSleep)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-changed:
			timer.Stop()
		case <-timer.C:
		}
		if !time.Now().Before(due) {
			return nil
		}
	}
}

// renewUntilDone asks for one new key until there is an answer or the certificate has expired, with
// which the controller cannot be asked any more.
func renewUntilDone(ctx context.Context, creds *pki.Credentials, dial Dialer, log hclog.Logger) error {
	key, err := pki.NewKey()
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	attempt := func() (struct{}, error) {
		if time.Now().After(creds.NotAfter()) {
			return struct{}{}, backoff.Permanent(expiredError(creds))
		}
		return struct{}{}, renewOnce(ctx, creds, dial, csr, keyPEM)
	}
	longest := max(2*leastSleep, min(time.Until(creds.NotAfter())/10, 5*time.Minute))
	_, err = backoff.Retry(ctx, attempt,
		backoff.WithBackOff(fullJitter(leastSleep, longest)),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, wait time.Duration) {
			log.Warn("certificate not renewed yet, will try again", "expires", creds.NotAfter(), "wait", wait, "error", err)
		}))
	return err
}

func renewOnce(ctx context.Context, creds *pki.Credentials, dial Dialer, csr, keyPEM []byte) (err error) {
	client, conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := client.Renew(ctx, &agentv1.RenewRequest{Csr: csr})
	if err != nil {
		return fmt.Errorf("renew certificate of %s: %w", creds.Identity(), err)
	}
	return creds.Replace(answer.GetCertificate(), keyPEM, answer.GetCa())
}
