package remote_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/internal/config"
)

const recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

func bucket(name, folder string) remote.Config {
	return remote.Config{Name: name, Kind: "s3", Folder: folder, S3: remote.S3{Bucket: name + "-bucket", Endpoint: "https://s3.example.org"}}
}

func remotes(t *testing.T, cfgs ...remote.Config) *remote.Remotes {
	t.Helper()
	r, err := remote.New(cfgs)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestParse(t *testing.T) {
	r := remotes(t, bucket("a", "etcd"), bucket("b", ""), remote.Config{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: "/mnt"}})
	for text, want := range map[string]string{
		"a:pre-1.31":                         "a:prod/pre-1.31",
		"a:latest":                           "a:prod/latest",
		"nfs:other/pre-1.31":                 "nfs:other/pre-1.31",
		"s3://a-bucket/etcd/prod/x":          "a:prod/x",
		"s3://a-bucket/etcd/prod/x.json":     "a:prod/x",
		"s3://b-bucket/other/x":              "b:other/x",
		"s3://a/etcd/other/x":                "a:other/x",
		"s3://a/other/x":                     "a:other/x",
		"s3://nfs/x":                         "nfs:prod/x",
		"x":                                  "is not REMOTE:NAME",
		"c:x":                                `remote "c" is not in the controller's configuration; it has a, b, nfs`,
		"s3://c-bucket/x":                    "no remote in the controller's configuration is the bucket c-bucket",
		"s3://a-bucket/elsewhere/x":          "no remote in the controller's configuration is the bucket a-bucket",
		"a:../x":                             "begins with a dot",
		"a:x/../../y":                        "begins with a dot",
		"a:":                                 "is empty",
		"s3://a-bucket/etcd/prod/x/y/../../": "has",
	} {
		from, err := r.Parse(text, "prod")
		switch {
		case err == nil && from.String() != want, err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	var none *remote.Remotes
	if _, err := none.Get("a"); err == nil || !strings.Contains(err.Error(), "it has none") {
		t.Error(err)
	}
	var unknown *remote.UnknownError
	if _, err := r.Get("c"); !errors.As(err, &unknown) {
		t.Error(err)
	}
}

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	level := 20
	for want, change := range map[string]func(*remote.Config){
		"kind":                      func(c *remote.Config) { c.Kind = "ftp" },
		"begins with a dot":         func(c *remote.Config) { c.Name = ".a" },
		"folder":                    func(c *remote.Config) { c.Folder = "../x" },
		"compression level":         func(c *remote.Config) { c.ZstdLevel = &level },
		"recipient":                 func(c *remote.Config) { c.Recipients = []string{"ssh-rsa AAAA"} },
		"no such file":              func(c *remote.Config) { c.RecipientsFile = "/nonexistent" },
		"s3.bucket is empty":        func(c *remote.Config) { c.S3.Bucket = "" },
		"s3.credentials \"x\"":      func(c *remote.Config) { c.S3.Credentials = "x" },
		"s3.credentials_file is":    func(c *remote.Config) { c.S3.Credentials, c.S3.CredentialsFile = "node", "/x" },
		"endpoint":                  func(c *remote.Config) { c.S3.Endpoint = "ftp://x" },
		"encryption":                func(c *remote.Config) { c.S3.Encryption = "x" },
		"object lock needs":         func(c *remote.Config) { c.S3.LockFor = config.Duration(time.Hour) },
		"not an absolute path":      func(c *remote.Config) { c.Kind = "dir"; c.Dir.Path = "mnt" },
		"open /nonexistent: no suc": func(c *remote.Config) { c.S3.CA = "/nonexistent" },
	} {
		cfg := bucket("a", "")
		change(&cfg)
		if _, err := remote.New([]remote.Config{cfg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := remote.New([]remote.Config{bucket("a", ""), bucket("a", "b")}); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Error(err)
	}
}

// Keys and recipients are read when they are needed, so that files which were replaced count at once.
func TestFilesAreReadAnewEachTime(t *testing.T) {
	dir := t.TempDir()
	keys, recipients := filepath.Join(dir, "keys"), filepath.Join(dir, "recipients")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(recipients, recipient)
	cfg := bucket("a", "etcd")
	cfg.S3.CredentialsFile, cfg.RecipientsFile = keys, recipients
	r, err := remotes(t, cfg).Get("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Access(t.Context()); err == nil || !strings.Contains(err.Error(), keys) {
		t.Error(err)
	}
	for _, secret := range []string{"one", "two"} {
		write(keys, "[default]\naws_access_key_id = a\naws_secret_access_key = "+secret+"\n")
		access, err := r.Access(t.Context())
		if err != nil || access.GetS3().GetSecretKey() != secret || access.GetS3().GetBucket() != "a-bucket" {
			t.Errorf("%v, %v", access, err)
		}
	}
	m := &requorumv1.Manifest{Name: "x", Sha256: "0123456789abcdef"}
	o, err := r.Object("prod", m)
	if err != nil || o.GetKey() != "etcd/prod/x-01234567.db.zst.age" || o.GetZstdLevel() != 3 || len(o.GetRecipients()) != 1 {
		t.Errorf("%v, %v", o, err)
	}
	if !r.Owns("prod", o.GetKey()) || r.Owns("pro", o.GetKey()) || r.Owns("etcd", o.GetKey()) {
		t.Error("whose object it is")
	}
	write(recipients, "nonsense")
	if _, err := r.Object("prod", m); err == nil || !strings.Contains(err.Error(), recipients) {
		t.Error(err)
	}
}

func TestNodesMayHaveTheirOwnKeys(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	own := bucket("own", "")
	own.S3.Credentials = "node"
	r := remotes(t, own, bucket("ours", ""))
	for name, want := range map[string]string{"own": "", "ours": "from-the-environment"} {
		one, err := r.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		access, err := one.Access(t.Context())
		if err != nil || access.GetS3().GetAccessKey() != want {
			t.Errorf("%s: %v, %v", name, access, err)
		}
	}
	all, err := r.Describe()
	if err != nil || len(all) != 2 || all[0].GetWhere() != "bucket own-bucket at s3.example.org" {
		t.Errorf("%v, %v", all, err)
	}
}
