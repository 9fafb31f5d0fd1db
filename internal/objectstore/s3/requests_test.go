package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"
	"github.com/requorum/requorum/internal/objectstore/s3"
	"github.com/requorum/requorum/internal/s3test"
)

// recorder notes the requests that a server gets. It passes them on as they are, so that their signatures hold.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

// record puts a recorder in front of a server. It answers in the server's place what answer does not leave to it.
func record(t *testing.T, server *s3test.Server, answer func(http.ResponseWriter, *http.Request) bool) *recorder {
	t.Helper()
	to, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}
	rec := &recorder{}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.mu.Lock()
		rec.seen = append(rec.seen, r.Clone(r.Context()))
		rec.mu.Unlock()
		if answer == nil || !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		rec.Close()
		transport.CloseIdleConnections()
	})
	return rec
}

// what tells which request of the protocol it is.
func what(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && query.Has("uploads"):
		return "CreateMultipartUpload"
	case r.Method == http.MethodPost && query.Has("uploadId"):
		return "CompleteMultipartUpload"
	case r.Method == http.MethodPut && query.Has("partNumber"):
		return "UploadPart"
	case r.Method == http.MethodPut:
		return "PutObject"
	}
	return "other"
}

// requests returns the headers of the requests of one kind.
func (rec *recorder) requests(kind string) []http.Header {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	var all []http.Header
	for _, r := range rec.seen {
		if what(r) == kind {
			all = append(all, r.Header)
		}
	}
	return all
}

// has fails unless every request of a kind has a header with this value; "" for none, "*" for any.
func (rec *recorder) has(t *testing.T, kind, header, want string) {
	t.Helper()
	all := rec.requests(kind)
	if len(all) == 0 {
		t.Errorf("no %s was sent", kind)
	}
	for _, h := range all {
		if got := h.Get(header); got != want && (want != "*" || got == "") {
			t.Errorf("%s has %s %q, want %q", kind, header, got, want)
		}
	}
}

// throughRecorder is a store in a bucket of a real server behind a recorder.
func throughRecorder(t *testing.T, change func(*s3.Config)) (*recorder, *s3.Store) {
	t.Helper()
	rec := record(t, s3test.StartPlain(t, bucket), nil)
	cfg := s3.Config{Endpoint: rec.URL, Bucket: bucket, Credentials: s3.Credentials{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey}}
	change(&cfg)
	return rec, open(t, cfg)
}

const (
	sse     = "X-Amz-Server-Side-Encryption"
	sseKey  = "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"
	lock    = "X-Amz-Object-Lock-Mode"
	lockEnd = "X-Amz-Object-Lock-Retain-Until-Date"
	token   = "X-Amz-Security-Token"
)

// What a server is to encrypt by is in the request that begins an object, small or large, and in none for its parts.
// versitygw takes it and does not encrypt: what S3 does with it is not tested.
func TestServerSideEncryptionIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		encryption, key, algorithm string
	}{
		"none":            {},
		"SSE-S3":          {encryption: "s3", algorithm: "AES256"},
		"SSE-KMS":         {encryption: "kms", key: "arn:aws:kms:eu-central-1:1:key/ours", algorithm: "aws:kms"},
		"SSE-KMS default": {encryption: "kms", algorithm: "aws:kms"},
	} {
		t.Run(name, func(t *testing.T) {
			rec, s := throughRecorder(t, func(cfg *s3.Config) { cfg.Encryption, cfg.KMSKey = c.encryption, c.key })
			wantWorks(t, s)
			if err := objectstoretest.Put(t.Context(), s, "a/small", []byte("small")); err != nil {
				t.Fatal(err)
			}
			for _, kind := range []string{"PutObject", "CreateMultipartUpload"} {
				rec.has(t, kind, sse, c.algorithm)
				rec.has(t, kind, sseKey, c.key)
			}
			rec.has(t, "UploadPart", sse, "") // S3 refuses it there
			rec.has(t, "other", sse, "")
		})
	}
}

// A session token goes with every request, and is a part of what is signed.
func TestTheSessionTokenIsSent(t *testing.T) {
	server := s3test.StartPlain(t, bucket)
	inEnvironment(t, server.NewRoles(t, time.Hour, 0).Machine())
	keys, err := s3.FromChain(t.Context(), s3.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rec := record(t, server, nil)
	s := open(t, s3.Config{Endpoint: rec.URL, Bucket: bucket, Credentials: keys})
	wantWorks(t, s)
	if err := errors.Join(objectstoretest.Put(t.Context(), s, "a/small", []byte("small")), s.Delete(t.Context(), "a/small")); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"PutObject", "CreateMultipartUpload", "UploadPart", "other"} {
		rec.has(t, kind, token, keys.SessionToken)
		for _, h := range rec.requests(kind) {
			if _, signed, _ := strings.Cut(h.Get("Authorization"), "SignedHeaders="); !strings.Contains(signed, "x-amz-security-token") {
				t.Errorf("%s does not sign it: %s", kind, h.Get("Authorization"))
			}
		}
	}
}

// What Amazon says of a token that has expired is a matter of credentials, which a person looks after. versitygw says that it does
// not know the keys.
func TestASessionTokenThatHasExpired(t *testing.T) {
	rec := record(t, s3test.StartPlain(t, bucket), func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusBadRequest)
		_, err := io.WriteString(w, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
		return err == nil
	})
	s := open(t, s3.Config{Endpoint: rec.URL, Bucket: bucket, Credentials: s3.Credentials{AccessKey: "a", SecretKey: "b", SessionToken: "old"}})
	err := objectstoretest.Put(t.Context(), impatient(s), "a/small", []byte("small"))
	if !errors.Is(err, objectstore.ErrDenied) || !objectstore.Permanent(err) {
		t.Error(err)
	}
}

// admin is a client of the server with its own keys.
func admin(t *testing.T, server *s3test.Server) *minio.Client {
	t.Helper()
	transport := &http.Transport{}
	c, err := minio.New(server.Address, &minio.Options{Creds: credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""), Region: "us-east-1", Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// version returns the only version of an object that is not a marker of its removal.
func version(t *testing.T, c *minio.Client, key string) minio.ObjectInfo {
	t.Helper()
	var found []minio.ObjectInfo
	for o := range c.ListObjects(t.Context(), "locked", minio.ListObjectsOptions{Prefix: key, WithVersions: true, Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if !o.IsDeleteMarker {
			found = append(found, o)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d versions of %s", len(found), key)
	}
	return found[0]
}

// In a bucket with object lock what is stored stays for its time: nobody can remove it, whatever Delete hides. This is
// the real server's doing.
func TestObjectLock(t *testing.T) {
	server := s3test.StartPlain(t, bucket)
	c := admin(t, server)
	if err := c.MakeBucket(t.Context(), "locked", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	rec := record(t, server, nil)
	for _, mode := range []string{"compliance", "governance"} {
		t.Run(mode, func(t *testing.T) {
			s := open(t, s3.Config{
				Endpoint: rec.URL, Bucket: "locked", LockMode: mode, LockFor: 24 * time.Hour,
				Credentials: s3.Credentials{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey},
			})
			begun := time.Now().Truncate(time.Second)
			for size, data := range map[string][]byte{"small": []byte("small"), "large": objectstoretest.Bytes(20<<20, 1)} {
				key := mode + "/" + size
				if err := objectstoretest.Put(t.Context(), s, key, data); err != nil {
					t.Fatal(err)
				}
				retained(t, c, key, strings.ToUpper(mode), begun.Add(24*time.Hour))
				kept(t, c, s, key, data)
			}
		})
	}
	for _, kind := range []string{"PutObject", "CreateMultipartUpload"} {
		rec.has(t, kind, lock, "*")
		rec.has(t, kind, lockEnd, "*")
	}
	rec.has(t, "PutObject", "Content-Md5", "*") // S3 asks for it where objects are locked
	rec.has(t, "UploadPart", "Content-Md5", "*")
}

// retained fails unless the server says that it retains an object until then.
func retained(t *testing.T, c *minio.Client, key, wantMode string, wantUntil time.Time) {
	t.Helper()
	v := version(t, c, key)
	info, err := c.StatObject(t.Context(), "locked", key, minio.StatObjectOptions{VersionID: v.VersionID})
	if err != nil {
		t.Fatal(err)
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get(lockEnd))
	if err != nil || info.Metadata.Get(lock) != wantMode || until.Before(wantUntil) || until.After(wantUntil.Add(time.Hour)) {
		t.Errorf("%s: %s until %v, %v; want %s until %s", key, info.Metadata.Get(lock), until, err, wantMode, wantUntil)
	}
}

// kept fails unless an object stays, whoever removes it.
func kept(t *testing.T, c *minio.Client, s *s3.Store, key string, data []byte) {
	t.Helper()
	v := version(t, c, key)
	if err := c.RemoveObject(t.Context(), "locked", key, minio.RemoveObjectOptions{VersionID: v.VersionID}); err == nil {
		t.Errorf("%s could be removed", key)
	}
	if err := s.Delete(t.Context(), key); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), key); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("%s is not hidden: %v", key, err)
	}
	o, err := c.GetObject(t.Context(), "locked", key, minio.GetObjectOptions{VersionID: version(t, c, key).VersionID})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(o)
	if err = errors.Join(err, o.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s: %d bytes are left, %v", key, len(got), err)
	}
}

// A bucket may have a retention of its own, for objects that come without one.
func TestObjectLockOfTheBucket(t *testing.T) {
	server := s3test.StartPlain(t, bucket)
	c := admin(t, server)
	if err := c.MakeBucket(t.Context(), "locked", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Fatal(err)
	}
	mode, days, unit := minio.Governance, uint(2), minio.Days
	if err := c.SetObjectLockConfig(t.Context(), "locked", &mode, &days, &unit); err != nil {
		t.Fatal(err)
	}
	s := open(t, s3.Config{Endpoint: server.URL(), Bucket: "locked", Credentials: s3.Credentials{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey}})
	data := objectstoretest.Bytes(20<<20, 1)
	if err := objectstoretest.Put(t.Context(), s, "a", data); err != nil {
		t.Fatal(err)
	}
	kept(t, c, s, "a", data)
}

// A bucket without object lock refuses an object that is to be retained, instead of keeping it like any other.
func TestObjectLockThatTheBucketDoesNotHave(t *testing.T) {
	server := s3test.Start(t, bucket)
	cfg := config(t, server)
	cfg.LockMode, cfg.LockFor = "compliance", time.Hour
	s := open(t, cfg)
	for _, size := range []int{5, 20 << 20} {
		if err := objectstoretest.Put(t.Context(), impatient(s), "a", objectstoretest.Bytes(size, 1)); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
