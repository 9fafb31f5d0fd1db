package pki

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/requorum/requorum/internal/names"
)

const (
	tokenVersion = "rq1"
	tokenIDSize  = 8  // bytes
	secretSize   = 32 // bytes
)

// ErrToken is in the error of ParseToken. The error never repeats what was given.
var ErrToken = errors.New("that is not a join token")

// Token lets the nodes of one cluster join. Its String is the secret that a person carries to the
// node; formatting or marshalling it in any other way leaves the secret out, so that it can't get into
// a log by accident.
type Token struct {
	Cluster       string
	ID            string // 16 hexadecimal digits
	Secret        string // 32 bytes in unpadded base64url
	CAFingerprint string // see (*Authority).Fingerprint
}

// NewToken makes a token with a random ID and secret.
func NewToken(cluster, caFingerprint string) (Token, error) {
	random := make([]byte, tokenIDSize+secretSize)
	if _, err := rand.Read(random); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return DeriveToken(cluster, caFingerprint, random)
}

// DeriveToken makes a token of 40 secret bytes: the same bytes make the same token.
func DeriveToken(cluster, caFingerprint string, random []byte) (Token, error) {
	if len(random) != tokenIDSize+secretSize {
		return Token{}, fmt.Errorf("make token of %d bytes; %d are needed", len(random), tokenIDSize+secretSize)
	}
	t := Token{
		Cluster:       cluster,
		ID:            hex.EncodeToString(random[:tokenIDSize]),
		Secret:        base64.RawURLEncoding.EncodeToString(random[tokenIDSize:]),
		CAFingerprint: caFingerprint,
	}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return t, nil
}

// ParseToken reads a token as String writes it; white space around it does not matter.
func ParseToken(text string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(text), ":")
	switch {
	case len(parts) == 1 && parts[0] == "":
		return Token{}, fmt.Errorf("%w: it is empty", ErrToken)
	case parts[0] != tokenVersion && isVersion(parts[0]):
		return Token{}, fmt.Errorf("%w of this version: it begins with %s, not %s; use the version of requorum that the controller runs", ErrToken, parts[0], tokenVersion)
	case parts[0] != tokenVersion:
		return Token{}, fmt.Errorf("%w: a token begins with %s", ErrToken, tokenVersion+":")
	case len(parts) < 5:
		return Token{}, fmt.Errorf("%w: it is cut off: %d of its 5 parts are there", ErrToken, len(parts))
	case len(parts) > 5:
		return Token{}, fmt.Errorf("%w: it has %d parts, not 5", ErrToken, len(parts))
	}
	t := Token{Cluster: parts[1], ID: parts[2], Secret: parts[3], CAFingerprint: parts[4]}
	if err := t.check(); err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return t, nil
}

func isVersion(part string) bool {
	rest, ok := strings.CutPrefix(part, "rq")
	return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
}

func (t Token) check() error {
	if err := names.Check("cluster", t.Cluster); err != nil {
		return err
	}
	if id, err := hex.DecodeString(t.ID); err != nil || len(id) != tokenIDSize {
		return errors.New("its ID is cut off or changed")
	}
	if secret, err := base64.RawURLEncoding.Strict().DecodeString(t.Secret); err != nil || len(secret) != secretSize {
		return errors.New("its secret is cut off or changed")
	}
	if sum, err := hex.DecodeString(t.CAFingerprint); err != nil || len(sum) != 32 || strings.ToLower(t.CAFingerprint) != t.CAFingerprint {
		return errors.New("its end is cut off or changed")
	}
	return nil
}

// String returns the token, secret included.
func (t Token) String() string {
	return strings.Join([]string{tokenVersion, t.Cluster, t.ID, t.Secret, t.CAFingerprint}, ":")
}

// Redacted names the token without its secret.
func (t Token) Redacted() string {
	return strings.Join([]string{tokenVersion, t.Cluster, t.ID, "***", t.CAFingerprint}, ":")
}

// Format writes the token without its secret, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, t.Redacted()) // fmt has no way to take the error
}

// MarshalText writes the token without its secret.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.Redacted()), nil }
