package remote

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/s3"
	"github.com/requorum/requorum/internal/seal"
)

// Config is an object store in the controller's configuration. Its secrets are in files, or where the standard chain
// of S3 clients looks, never in it.
type Config struct {
	Name           string   `yaml:"name"`            // by which requests name it
	Kind           string   `yaml:"kind"`            // s3 or dir
	Folder         string   `yaml:"folder"`          // that every key begins with
	ZstdLevel      *int     `yaml:"zstd_level"`      // 1 to 19, 0 for no compression; 3 if it is not given
	Recipients     []string `yaml:"recipients"`      // X25519 public keys of age to encrypt for
	RecipientsFile string   `yaml:"recipients_file"` // more of them, one a line
	S3             S3       `yaml:"s3"`
	Dir            Dir      `yaml:"dir"`
}

// S3 is a bucket.
type S3 struct {
	Endpoint        string          `yaml:"endpoint"`         // host:port, or a URL: http:// is plain HTTP
	Region          string          `yaml:"region"`           // of the bucket
	Bucket          string          `yaml:"bucket"`           // its name
	PathStyle       bool            `yaml:"path_style"`       // the bucket in the path instead of the host's name
	CA              string          `yaml:"ca"`               // file of certificates to trust besides the system's, PEM
	SkipTLSVerify   bool            `yaml:"skip_tls_verify"`  // trust any certificate
	Proxy           string          `yaml:"proxy"`            // URL
	Credentials     string          `yaml:"credentials"`      // controller or node: whose they are
	CredentialsFile string          `yaml:"credentials_file"` // in the format of the AWS command line, on the controller
	Profile         string          `yaml:"profile"`          // in that file
	Encryption      string          `yaml:"encryption"`       // by the server: s3 or kms
	KMSKey          string          `yaml:"kms_key"`          // for kms
	LockMode        string          `yaml:"lock_mode"`        // object lock: governance or compliance
	LockFor         config.Duration `yaml:"lock_for"`         // how long
}

// Dir is a directory that is mounted on every node.
type Dir struct {
	Path string `yaml:"path"` // absolute
}

const (
	kindS3  = "s3"
	kindDir = "dir"

	defaultLevel = 3

	fromController = "controller" // the default
	fromNode       = "node"
)

func (c Config) check() error {
	if err := names.Check("remote", c.Name); err != nil {
		return err
	}
	if c.Folder != "" && objectstore.CheckKey(c.Folder) != nil {
		return fmt.Errorf("folder %q is not made of A-Z a-z 0-9 . _ - and single slashes", c.Folder)
	}
	if _, err := c.seal(); err != nil {
		return err
	}
	switch c.Kind {
	case kindS3:
		return c.S3.check()
	case kindDir:
		if !filepath.IsAbs(c.Dir.Path) {
			return fmt.Errorf("dir.path %q is not an absolute path", c.Dir.Path)
		}
		return nil
	}
	return fmt.Errorf("kind %q is not s3 or dir", c.Kind)
}

func (c S3) check() error {
	switch {
	case c.Bucket == "":
		return errors.New("s3.bucket is empty")
	case !slices.Contains([]string{"", fromController, fromNode}, c.Credentials):
		return fmt.Errorf("s3.credentials %q is not controller or node", c.Credentials)
	case c.Credentials == fromNode && c.CredentialsFile != "":
		return errors.New("s3.credentials_file is the controller's, and s3.credentials says that nodes use their own")
	}
	ca, err := c.ca()
	if err != nil {
		return err
	}
	store, err := s3.Open(s3.Config{ // it sends nothing
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, CA: ca, Proxy: c.Proxy,
		Encryption: c.Encryption, KMSKey: c.KMSKey, LockMode: c.LockMode, LockFor: c.LockFor.Std(),
	})
	if err != nil {
		return err
	}
	return store.Close()
}

func (c S3) ca() ([]byte, error) {
	if c.CA == "" {
		return nil, nil
	}
	return os.ReadFile(c.CA)
}

// seal returns how files are compressed and encrypted, read anew each time.
func (c Config) seal() (seal.Options, error) {
	return sealing.Config{ZstdLevel: c.ZstdLevel, Recipients: c.Recipients, RecipientsFile: c.RecipientsFile}.Options(defaultLevel)
}

// access returns what a node needs to reach the bucket. Files are read anew each time: what was replaced counts at once.
func (c S3) access(ctx context.Context) (*agentv1.S3Remote, error) {
	ca, err := c.ca()
	if err != nil {
		return nil, err
	}
	r := &agentv1.S3Remote{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, PathStyle: c.PathStyle, Ca: ca, SkipTlsVerify: c.SkipTLSVerify, Proxy: c.Proxy,
		Encryption: c.Encryption, KmsKey: c.KMSKey, LockMode: c.LockMode,
	}
	if c.LockFor > 0 {
		r.LockFor = durationpb.New(c.LockFor.Std())
	}
	if c.Credentials == fromNode {
		return r, nil
	}
	keys, err := c.keys(ctx, ca)
	if err != nil {
		return nil, err
	}
	r.AccessKey, r.SecretKey, r.SessionToken = keys.AccessKey, keys.SecretKey, keys.SessionToken
	if !keys.Expires.IsZero() {
		r.KeysExpire = timestamppb.New(keys.Expires)
	}
	return r, nil
}

func (c S3) keys(ctx context.Context, ca []byte) (s3.Credentials, error) {
	if c.CredentialsFile == "" {
		keys, err := s3.FromChain(ctx, s3.Config{CA: ca, Proxy: c.Proxy})
		if err != nil {
			err = fmt.Errorf("look for credentials in the controller's environment: %w", err)
		}
		return keys, err
	}
	keys, err := s3.FromFile(c.CredentialsFile, c.Profile)
	if err != nil {
		err = fmt.Errorf("credentials in %s: %w", c.CredentialsFile, err)
	}
	return keys, err
}

// where tells people where the store is, without what is secret.
func (c Config) where() string {
	if c.Kind == kindDir {
		return "directory " + c.Dir.Path
	}
	host := c.S3.Endpoint
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		host = u.Host
	}
	if host == "" {
		host = "Amazon S3"
	}
	return "bucket " + c.S3.Bucket + " at " + host
}
