// Package enroll gets an agent its certificate from the controller and keeps it fresh. It relies on
// package pki for what a good certificate is and on the controller for everything else: an answer that
// is lost is asked for again with the same key, which has the same effect.
package enroll

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/pki"
)

const (
	pendingKeyFile = "enroll.key"   // the key of an enrolment whose answer is not here yet
	usedTokenFile  = "enroll.token" // ID of the token that the credentials were got with
	callTimeout    = 15 * time.Second
)

var (
	// ErrNoToken is in the error of Ensure for a node that is not enrolled and was given no token.
	ErrNoToken = errors.New("the node is not enrolled and there is no join token")
	// ErrExpired is in the error for a certificate that has expired.
	ErrExpired = errors.New("the certificate has expired")
	// ErrOtherNode is in the error of Ensure when the credentials or the token are of another cluster or node.
	ErrOtherNode = errors.New("the credentials are another node's")
)

// Options say where the credentials are and how to get them.
type Options struct {
	Dir               string // holds the credentials; made if needed
	ControllerAddress string // host:port
	Token             string // join token; may be empty once the node is enrolled
	Node              string // name of the node
	Log               hclog.Logger
}

// Ensure returns the node's credentials: those in Dir, or new ones from the controller in exchange for
// the token. A token that was not used before is used even if there are good credentials, so that a
// node which was removed comes back; if that fails the good ones stay in use. Without good ones it
// retries until ctx ends while the controller cannot be reached, and gives up at once when it refuses.
func Ensure(ctx context.Context, o Options) (*pki.Credentials, error) {
	if err := names.Check("node", o.Node); err != nil {
		return nil, err
	}
	creds, err := pki.LoadBundle(o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return o.first(ctx)
	case err != nil:
		return nil, fmt.Errorf("node %s: %w", o.Node, err)
	}
	id := creds.Identity()
	if id != pki.NodeIdentity(id.Cluster, o.Node) {
		return nil, fmt.Errorf("%w: those in %s are of %s, and this is node %s; give it the old name or a directory of its own", ErrOtherNode, o.Dir, id, o.Node)
	}
	return o.again(ctx, creds)
}

// first enrols a node that has no credentials.
func (o Options) first(ctx context.Context) (*pki.Credentials, error) {
	if o.Token == "" {
		return nil, fmt.Errorf("node %s: %w; make one with: requorum token create --cluster NAME --node %s", o.Node, ErrNoToken, o.Node)
	}
	token, err := pki.ParseToken(o.Token)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", o.Node, err)
	}
	return o.enroll(ctx, token)
}

// again decides whether a node that has credentials needs new ones.
func (o Options) again(ctx context.Context, creds *pki.Credentials) (*pki.Credentials, error) {
	expired := time.Now().After(creds.NotAfter())
	token, fresh, err := o.freshToken()
	switch {
	case err == nil && fresh && token.Cluster != creds.Identity().Cluster:
		return nil, fmt.Errorf("%w: those in %s are of %s, and the join token is for cluster %s; give the agent the right token or a directory of its own", ErrOtherNode, o.Dir, creds.Identity(), token.Cluster)
	case expired && err != nil:
		return nil, fmt.Errorf("%w; %w", err, expiredError(creds))
	case expired && !fresh:
		return nil, expiredError(creds)
	case expired:
		return o.enroll(ctx, token)
	case err != nil:
		o.Log.Warn("join token cannot be read; the node stays enrolled as it is", "error", err)
		return creds, nil
	case !fresh:
		return creds, nil
	}
	renewed, err := o.enrollOnce(ctx, token)
	if err != nil {
		o.Log.Warn("enrolment with a new join token failed; the node stays enrolled as it is", "error", err)
		return creds, nil
	}
	return renewed, nil
}

// freshToken returns the token if there is one that the credentials were not got with.
func (o Options) freshToken() (token pki.Token, fresh bool, err error) {
	if o.Token == "" {
		return pki.Token{}, false, nil
	}
	if token, err = pki.ParseToken(o.Token); err != nil {
		return pki.Token{}, false, err
	}
	used, err := os.ReadFile(filepath.Join(o.Dir, usedTokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pki.Token{}, false, fmt.Errorf("read ID of the join token that was used: %w", err)
	}
	return token, strings.TrimSpace(string(used)) != token.ID, nil
}

func expiredError(creds *pki.Credentials) error {
	id := creds.Identity()
	return fmt.Errorf("%s: %w on %s; enrol it again with a token made by: requorum token create --cluster %s --node %s",
		id, ErrExpired, creds.NotAfter().Format(time.RFC3339), id.Cluster, id.Node)
}

// enroll retries while the controller cannot be reached.
func (o Options) enroll(ctx context.Context, token pki.Token) (*pki.Credentials, error) {
	attempt := func() (*pki.Credentials, error) {
		creds, err := o.enrollOnce(ctx, token)
		if err != nil && !mayPass(err) {
			return nil, backoff.Permanent(err)
		}
		return creds, err
	}
	return backoff.Retry(ctx, attempt,
		backoff.WithBackOff(fullJitter(100*time.Millisecond, 8*time.Second)),
		backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, wait time.Duration) {
			o.Log.Warn("not enrolled yet, will try again", "node", o.Node, "controller", o.ControllerAddress, "wait", wait, "error", err)
		}))
}

// enrollOnce asks the controller once. The key is on disk before, so that asking again after a lost
// answer, or a crash, is the same request.
func (o Options) enrollOnce(ctx context.Context, token pki.Token) (*pki.Credentials, error) {
	key, keyPEM, err := o.pendingKey()
	if err != nil {
		return nil, fmt.Errorf("key of node %s: %w", o.Node, err)
	}
	answer, err := o.ask(ctx, token, key)
	if err != nil {
		return nil, fmt.Errorf("enrol node %s at %s: %w", o.Node, o.ControllerAddress, err)
	}
	if err := checkAnswer(answer, keyPEM, token, o.Node); err != nil {
		return nil, fmt.Errorf("enrol node %s at %s: the controller's answer: %w", o.Node, o.ControllerAddress, err)
	}
	if err := pki.SaveCredentials(o.Dir, answer.GetCertificate(), keyPEM, answer.GetCa()); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(filepath.Join(o.Dir, usedTokenFile), []byte(token.ID+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("note the join token: %w", err)
	}
	if err := durable.Remove(filepath.Join(o.Dir, pendingKeyFile)); err != nil {
		return nil, fmt.Errorf("remove pending key: %w", err)
	}
	o.Log.Info("node enrolled", "cluster", token.Cluster, "node", o.Node)
	return pki.LoadBundle(o.Dir)
}

func (o Options) pendingKey() (crypto.Signer, []byte, error) {
	path := filepath.Join(o.Dir, pendingKeyFile)
	text, err := os.ReadFile(path)
	if err == nil {
		key, err := pki.ParseKey(text)
		return key, text, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	if text, err = pki.KeyPEM(key); err != nil {
		return nil, nil, err
	}
	if err := durable.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	return key, text, durable.WriteFile(path, text, 0o600)
}

// ask makes the one call that needs no certificate, to a controller whose CA the token names.
func (o Options) ask(ctx context.Context, token pki.Token, key crypto.Signer) (_ *agentv1.EnrollResponse, err error) {
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, err
	}
	config, verdict := remembering(pki.PinnedTLS(token.CAFingerprint))
	conn, err := grpc.NewClient(o.ControllerAddress, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := agentv1.NewEnrollServiceClient(conn).Enroll(ctx, &agentv1.EnrollRequest{
		TokenId:     token.ID,
		TokenSecret: token.Secret,
		Node:        o.Node,
		Csr:         csr,
	})
	if mismatch := verdict.Load(); err != nil && mismatch != nil {
		return nil, *mismatch
	}
	if st, ok := status.FromError(err); ok && err != nil {
		return nil, &answerError{st}
	}
	return answer, err
}

// answerError is an error of the controller in its own words, without gRPC's around them.
type answerError struct{ status *status.Status }

func (e *answerError) Error() string { return e.status.Message() }

// GRPCStatus returns the status, for status.Code.
func (e *answerError) GRPCStatus() *status.Status { return e.status }

// remembering keeps the error with which config refused the server, of which gRPC tells the text only.
func remembering(config *tls.Config) (*tls.Config, *atomic.Pointer[error]) {
	var verdict atomic.Pointer[error]
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		err := verify(state)
		if err != nil {
			verdict.Store(&err)
		}
		return err
	}
	return config, &verdict
}

func checkAnswer(answer *agentv1.EnrollResponse, keyPEM []byte, token pki.Token, node string) error {
	creds, err := pki.NewCredentials(answer.GetCertificate(), keyPEM, answer.GetCa())
	if err != nil {
		return err
	}
	if want := pki.NodeIdentity(token.Cluster, node); creds.Identity() != want {
		return fmt.Errorf("%w: the certificate is of %s, not of %s", ErrOtherNode, creds.Identity(), want)
	}
	if !creds.Trusts(token.CAFingerprint) {
		return pki.ErrPinned
	}
	return nil
}

// mayPass tells whether an error may be gone the next time.
func mayPass(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted:
		return true
	}
	return false
}

// fullJitter waits anything from nothing to a bound that doubles from first up to last.
func fullJitter(first, last time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = first/2, last/2
	b.RandomizationFactor, b.Multiplier = 1, 2
	return b
}
