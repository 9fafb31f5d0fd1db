package s3

import (
	"context"
	"errors"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Credentials are keys for a bucket. Without any, the standard chain finds some: the variables AWS_ACCESS_KEY_ID and
// so on, the shared credentials file, a web identity, the role of the container or of the machine.
type Credentials struct {
	AccessKey, SecretKey, SessionToken string
	Expires                            time.Time // when they stop working; zero where that is not known, or never
}

func (c Credentials) empty() bool { return c.AccessKey == "" && c.SecretKey == "" }

func (c Credentials) value() credentials.Value {
	return credentials.Value{
		AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken, Expiration: c.Expires, SignerType: credentials.SignatureV4,
	}
}

// FromFile reads keys from a file in the format of the AWS command line, of the profile given or else of "default".
func FromFile(path, profile string) (Credentials, error) {
	return retrieve(&credentials.FileAWSCredentials{Filename: path, Profile: profile})
}

// FromChain returns the keys that the standard chain finds here and now. CA and Proxy of cfg are for a token service.
func FromChain(ctx context.Context, cfg Config) (Credentials, error) { return newChain(cfg).ask(ctx) }

func retrieve(from credentials.Provider) (Credentials, error) {
	v, err := from.RetrieveWithCredContext(nil)
	c := Credentials{AccessKey: v.AccessKeyID, SecretKey: v.SecretAccessKey, SessionToken: v.SessionToken, Expires: v.Expiration}
	if err == nil && (c.AccessKey == "" || c.SecretKey == "") {
		err = errors.New("there are none")
	}
	return c, err
}

func (c Config) provider() *credentials.Credentials {
	switch {
	case c.Credentials.empty():
		return credentials.New(&renewing{ask: newChain(c).ask})
	case c.Renew != nil:
		return credentials.New(&renewing{ask: c.Renew, given: c.Credentials})
	}
	return credentials.NewStaticV4(c.Credentials.AccessKey, c.Credentials.SecretKey, c.Credentials.SessionToken)
}

const (
	renewAt   = 0.8                    // of the time that keys have left
	soonest   = 200 * time.Millisecond // for keys that have expired by this node's clock, which may be wrong
	lookEvery = time.Minute            // for keys that tell no end, and may be replaced where they come from
)

// renewing asks for new keys before those it has expire. The client calls it before each request, one call at a time.
// Where none are to be had, the old ones serve for as long as they work.
type renewing struct {
	ask   func(context.Context) (Credentials, error)
	given Credentials // to begin with; may be empty
	keys  Credentials
	next  time.Time // when to ask
}

// RetrieveWithCredContext implements credentials.Provider.
func (r *renewing) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	keys, err := r.given, error(nil)
	if r.given = (Credentials{}); keys.empty() {
		keys, err = r.ask(contextOf(cc))
	}
	if err == nil && keys.empty() { // a request without a signature would be denied for good
		err = errors.New("no keys were handed out")
	}
	switch {
	case err == nil:
		r.keys = keys
	case r.keys.empty() || !r.keys.Expires.IsZero() && !time.Now().Before(r.keys.Expires):
		return credentials.Value{}, err
	}
	r.next = time.Now().Add(lookEvery)
	if !r.keys.Expires.IsZero() {
		r.next = time.Now().Add(max(soonest, time.Duration(float64(time.Until(r.keys.Expires))*renewAt)))
	}
	return r.keys.value(), nil
}

// Retrieve implements credentials.Provider.
func (r *renewing) Retrieve() (credentials.Value, error) { return r.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (r *renewing) IsExpired() bool { return !time.Now().Before(r.next) }

func contextOf(cc *credentials.CredContext) context.Context {
	if cc == nil || cc.Context == nil {
		return context.Background()
	}
	return cc.Context
}
