package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"
	"github.com/requorum/requorum/internal/objectstore/s3"
	"github.com/requorum/requorum/internal/s3test"
)

// Keys of a role live for so long, as whoever hands them out says. The server takes them a little longer, because a
// request may be on its way for some time.
const life, grace = time.Second, time.Second

// inEnvironment makes a process's environment what it is with a role, and nothing else that has to do with keys.
func inEnvironment(t *testing.T, variables []string) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// An upload that takes longer than any keys live ends well, whoever hands them out.
func TestRolesWhoseKeysExpireInTheMiddle(t *testing.T) {
	server := s3test.Start(t, bucket)
	for name, environment := range map[string]func(*s3test.Roles) []string{
		"machine":      (*s3test.Roles).Machine,
		"container":    (*s3test.Roles).Container,
		"pod":          (*s3test.Roles).Pod,
		"web identity": (*s3test.Roles).WebIdentity,
	} {
		t.Run(name, func(t *testing.T) {
			roles := server.NewRoles(t, life, grace)
			inEnvironment(t, environment(roles))
			cfg := config(t, server)
			cfg.Credentials = s3.Credentials{}
			s := impatient(open(t, cfg))
			outlives(t, s, roles)
			if issued, _, _ := roles.Counts(); roles.Asked() > 4*issued {
				t.Errorf("asked %d times for keys that were replaced %d times", roles.Asked(), issued)
			}
		})
	}
}

// outlives uploads an object in the middle of which keys expire, twice, and reads it.
func outlives(t *testing.T, s objectstore.Store, roles *s3test.Roles) {
	t.Helper()
	part := objectstoretest.Bytes(6<<20, 7)
	err := s.Put(t.Context(), "a/long", func(w io.Writer) error {
		for range 2 {
			if _, err := w.Write(part); err != nil {
				return err
			}
			roles.Rotate()
			roles.Outlive()
		}
		_, err := w.Write(part)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := objectstoretest.Get(t.Context(), s, "a/long", 0)
	if err != nil || !bytes.Equal(got, bytes.Repeat(part, 3)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What a task has was found by the controller, which is asked again.
func TestKeysThatAreRenewed(t *testing.T) {
	server := s3test.Start(t, bucket)
	roles := server.NewRoles(t, life, grace)
	inEnvironment(t, roles.Machine())
	first, err := s3.FromChain(t.Context(), s3.Config{})
	if err != nil || first.Expires.IsZero() {
		t.Fatalf("%+v, %v", first, err)
	}
	cfg := config(t, server)
	cfg.Credentials = first
	cfg.Renew = func(ctx context.Context) (s3.Credentials, error) { return s3.FromChain(ctx, s3.Config{}) }
	outlives(t, open(t, cfg), roles)

	cfg.Renew = nil // without that they end with the upload
	if err := objectstoretest.Put(t.Context(), open(t, cfg), "a/late", nil); !errors.Is(err, objectstore.ErrDenied) {
		t.Errorf("keys that have expired: %v", err)
	}
}

// Whoever hands out keys may be away for as long as the old ones work.
func TestARoleThatIsAwayForAWhile(t *testing.T) {
	server := s3test.Start(t, bucket)
	roles := server.NewRoles(t, 20*time.Second, grace) // so that a slow request is no failure
	inEnvironment(t, roles.Machine())
	cfg := config(t, server)
	cfg.Credentials = s3.Credentials{}
	s := open(t, cfg)
	if err := objectstoretest.Put(t.Context(), s, "a/one", nil); err != nil {
		t.Fatal(err)
	}
	roles.Break(true)
	for roles.Refused() == 0 {
		if err := objectstoretest.Put(t.Context(), s, "a/two", nil); err != nil {
			t.Fatal(err)
		}
	}
	err := objectstoretest.Put(t.Context(), open(t, cfg), "a/three", nil) // a task that begins now has none
	if err == nil || objectstore.Permanent(err) || !strings.Contains(err.Error(), "keys from the machine's metadata service: 500") {
		t.Errorf("%v", err)
	}
	roles.Break(false)
	if err := objectstoretest.Put(t.Context(), s, "a/three", nil); err != nil {
		t.Error(err)
	}
}

func TestRolesThatHandOutNothingSayWhy(t *testing.T) {
	server := s3test.Start(t, bucket)
	roles := server.NewRoles(t, life, grace)
	for name, c := range map[string]struct {
		environment []string
		want        string
	}{
		"no token of the container": {append(roles.Container(), "AWS_CONTAINER_AUTHORIZATION_TOKEN=another"), "keys from the container's credentials endpoint: 401"},
		"another identity":          {append(roles.WebIdentity(), "AWS_ROLE_ARN=arn:aws:iam::000000000000:role/another"), "keys from the token service for web identities: Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		"no identity":               {append(roles.WebIdentity(), "AWS_WEB_IDENTITY_TOKEN_FILE=/nonexistent/token"), "/nonexistent/token"},
		"no role at all":            {[]string{"AWS_EC2_METADATA_DISABLED=true"}, "no keys in the environment or the shared credentials file, and no role"},
	} {
		t.Run(name, func(t *testing.T) {
			inEnvironment(t, c.environment)
			if keys, err := s3.FromChain(t.Context(), s3.Config{}); err == nil || !strings.Contains(err.Error(), c.want) || keys != (s3.Credentials{}) {
				t.Errorf("%+v, %v", keys, err)
			}
		})
	}
}

// The token service verifies who somebody is, and says why it does not believe it.
func TestWebIdentitiesThatAreRefused(t *testing.T) {
	roles := s3test.Start(t, bucket).NewRoles(t, life, grace)
	inEnvironment(t, roles.WebIdentity())
	if keys, err := s3.FromChain(t.Context(), s3.Config{}); err != nil || keys.SessionToken == "" {
		t.Fatalf("%+v, %v", keys, err)
	}
	for name, c := range map[string]struct {
		claims map[string]any
		want   string
	}{
		"expired":          {map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, "Token expired"},
		"another account":  {map[string]any{"sub": "system:serviceaccount:other:other"}, "The web identity token provided could not be validated"},
		"another audience": {map[string]any{"aud": "another"}, "The web identity token provided could not be validated"},
	} {
		t.Run(name, func(t *testing.T) {
			roles.Impostor(c.claims)
			if keys, err := s3.FromChain(t.Context(), s3.Config{}); err == nil || !strings.Contains(err.Error(), "keys from the token service for web identities: "+c.want) {
				t.Errorf("%+v, %v", keys, err)
			}
		})
	}
}

// Keys of a session work with its token only, and until they expire. A person looks after what is refused.
func TestSessionTokens(t *testing.T) {
	server := s3test.Start(t, bucket)
	roles := server.NewRoles(t, 5*time.Second, 0)
	inEnvironment(t, roles.Machine())
	keys, err := s3.FromChain(t.Context(), s3.Config{})
	if err != nil || keys.SessionToken == "" {
		t.Fatalf("%+v, %v", keys, err)
	}
	for name, c := range map[string]struct {
		change func(*s3.Credentials)
		want   string
	}{
		"another token":  {func(c *s3.Credentials) { c.SessionToken += "0" }, "The provided token is malformed or otherwise invalid"},
		"no token":       {func(c *s3.Credentials) { c.SessionToken = "" }, "The AWS Access Key Id you provided does not exist in our records"},
		"token alone":    {func(c *s3.Credentials) { c.AccessKey, c.SecretKey = s3test.AccessKey, s3test.SecretKey }, "token"},
		"another secret": {func(c *s3.Credentials) { c.SecretKey += "0" }, "signature"},
	} {
		refused(t, server, name, keys, c.change, c.want)
	}
	data := objectstoretest.Bytes(6<<20, 1)
	s := open(t, static(t, server, keys))
	if err := objectstoretest.Put(t.Context(), s, "a/one", data); err != nil {
		t.Fatal(err)
	}
	if got, err := objectstoretest.Get(t.Context(), s, "a/one", 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	roles.Outlive()
	refused(t, server, "expired", keys, func(*s3.Credentials) {}, "does not exist in our records")
}

// static is a configuration with keys that nobody renews.
func static(t *testing.T, server *s3test.Server, keys s3.Credentials) s3.Config {
	cfg := config(t, server)
	keys.Expires = time.Time{}
	cfg.Credentials = keys
	return cfg
}

func refused(t *testing.T, server *s3test.Server, name string, keys s3.Credentials, change func(*s3.Credentials), want string) {
	t.Helper()
	change(&keys)
	err := objectstoretest.Put(t.Context(), open(t, static(t, server, keys)), "a/two", nil)
	if !errors.Is(err, objectstore.ErrDenied) || !objectstore.Permanent(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v", name, err)
	}
}

// The machine's role is not that of a proxy; the token service is somewhere else.
func TestRolesAndProxies(t *testing.T) {
	server := s3test.Start(t, bucket)
	roles := server.NewRoles(t, life, grace)
	cfg := s3.Config{Proxy: "http://127.0.0.1:1"} // nobody listens there
	for name, c := range map[string]struct {
		environment []string
		proxied     bool
	}{"machine": {roles.Machine(), false}, "container": {roles.Container(), false}, "web identity": {roles.WebIdentity(), true}} {
		inEnvironment(t, c.environment)
		if _, err := s3.FromChain(t.Context(), cfg); (err != nil) != c.proxied {
			t.Errorf("%s: %v", name, err)
		}
	}
}
