package member

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// CallError is a call that the member did not answer as wanted. It wraps the cause: one of rpctypes's errors
// where etcd gave one.
type CallError struct {
	Endpoint string // client URL
	Call     string // what was asked
	Err      error
}

// Error names the endpoint and what to do.
func (e *CallError) Error() string {
	text := fmt.Sprintf("etcd at %s: %s: %v", e.Endpoint, e.Call, e.Err)
	if advice := advice(e.Err); advice != "" {
		text += "; " + advice
	}
	return text
}

// Unwrap returns the cause.
func (e *CallError) Unwrap() error { return e.Err }

// NotReadyError says that the member does not serve yet as it must: try again.
type NotReadyError struct {
	Endpoint string // client URLs
	Reason   string
	Err      error // the cause, nil where the member answered
}

// Error names the endpoint and the reason.
func (e *NotReadyError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("not ready yet: %v", e.Err)
	}
	return fmt.Sprintf("etcd at %s is not ready yet: %s", e.Endpoint, e.Reason)
}

// Unwrap returns the cause.
func (e *NotReadyError) Unwrap() error { return e.Err }

// MismatchError says that the member is not what it must be: trying again is of no use.
type MismatchError struct {
	Endpoint string // client URLs
	Reason   string // what is wrong and what to do
	Err      error  // the cause, nil where the member answered
}

// Error names the endpoint and the reason.
func (e *MismatchError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	return fmt.Sprintf("etcd at %s: %s", e.Endpoint, e.Reason)
}

// Unwrap returns the cause.
func (e *MismatchError) Unwrap() error { return e.Err }

// isAny tells whether etcd answered with one of the errors.
func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// wantsLogin tells whether a fresh login may turn the answer into another.
func wantsLogin(err error) bool {
	return isAny(err, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision,
		rpctypes.ErrUserNotFound, rpctypes.ErrPermissionDenied)
}

// isAuth tells whether etcd refused the user.
func isAuth(err error) bool { return wantsLogin(err) || isAny(err, rpctypes.ErrAuthFailed) }

// advice says what a person can do about it, empty where the error says all.
func advice(err error) string {
	switch text := err.Error(); {
	case isAny(err, rpctypes.ErrUserEmpty):
		return "authentication is on: set username and password_file of a user with the role root in the agent's etcd section"
	case isAny(err, rpctypes.ErrAuthFailed, rpctypes.ErrUserNotFound):
		return "check username and password_file in the agent's etcd section; after a restore the users and passwords of the snapshot's day are back"
	case isAny(err, rpctypes.ErrPermissionDenied):
		return "grant the user the role root: etcdctl user grant-role USER root"
	case isAny(err, rpctypes.ErrTooManyLearners):
		return "raise etcd's --max-learners, or promote or remove a learner"
	case strings.Contains(text, "x509:"):
		return "check ca_file in the agent's etcd section, and that the endpoint's host is in the member's certificate"
	case strings.Contains(text, "remote error: tls:"):
		return "the member refuses the client certificate: check cert_file and key_file in the agent's etcd section"
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return "the member talks plain HTTP: use an http:// endpoint in the agent's etcd section"
	case strings.Contains(text, "handshake failed: EOF"):
		return "if the member talks plain HTTP, use an http:// endpoint in the agent's etcd section"
	case strings.Contains(text, "error reading server preface"):
		return "if the member talks TLS, use an https:// endpoint in the agent's etcd section"
	case strings.Contains(text, "connection refused"), strings.Contains(text, "connect: no such file"):
		return "check that etcd runs and that endpoints in the agent's etcd section is its client URL"
	case errors.Is(err, context.DeadlineExceeded):
		return "look whether the member hangs or its disk is slow"
	}
	return ""
}

// unready types an error of an attempt to verify: a refused user stays refused, all else may pass.
func (m *Member) unready(err error) error {
	var notReady *NotReadyError
	var mismatch *MismatchError
	switch {
	case errors.As(err, &notReady), errors.As(err, &mismatch):
		return err
	case isAuth(err):
		return &MismatchError{Endpoint: m.endpoints(), Err: err}
	}
	return &NotReadyError{Endpoint: m.endpoints(), Err: err}
}
