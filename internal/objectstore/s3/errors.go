package s3

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/requorum/requorum/internal/objectstore"
)

// kind tells what a failure is; nil for what may go away by itself.
func kind(err error) error {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return kindOfOwn(err)
	}
	switch answer.Code {
	case minio.NoSuchBucket, "PermanentRedirect", "AuthorizationHeaderMalformed":
		return objectstore.ErrNoStore
	case minio.NoSuchKey, "NotFound":
		return objectstore.ErrNotFound
	case "RequestTimeTooSkewed", "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable":
		return nil
	case "AccessDenied", "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return objectstore.ErrDenied
	}
	switch {
	case answer.StatusCode == http.StatusForbidden, answer.StatusCode == http.StatusUnauthorized:
		return objectstore.ErrDenied
	case answer.StatusCode == http.StatusNotFound:
		return objectstore.ErrNotFound
	case answer.StatusCode == http.StatusRequestTimeout, answer.StatusCode == http.StatusTooManyRequests:
		return nil
	case answer.StatusCode >= 400 && answer.StatusCode < 500:
		return objectstore.ErrInvalid
	}
	return nil
}

// kindOfOwn is for failures that no server has answered with.
func kindOfOwn(err error) error {
	switch {
	case err == nil:
		return nil
	case isUntrusted(err):
		return objectstore.ErrInvalid
	}
	return nil
}

// isUntrusted tells whether the server's certificate was refused, or it does not speak TLS.
func isUntrusted(err error) bool {
	text := err.Error()
	return strings.Contains(text, "tls: failed to verify certificate") || strings.Contains(text, "server gave HTTP response to HTTPS client")
}

// fail makes a failure one of this store.
func (s *Store) fail(ctx context.Context, doing, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &objectstore.Error{Store: s.name, Doing: doing + " " + key, Kind: kind(err), Cause: err}
}

func (s *Store) invalid(err error) error {
	return &objectstore.Error{Store: s.name, Doing: "configuration", Kind: objectstore.ErrInvalid, Cause: err}
}

// lockMode returns the protocol's word for a mode.
func lockMode(mode string) string { return strings.ToUpper(mode) }
