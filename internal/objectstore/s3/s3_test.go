package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/internal/objectstore"
	"github.com/requorum/requorum/internal/objectstore/objectstoretest"
	"github.com/requorum/requorum/internal/objectstore/s3"
	"github.com/requorum/requorum/internal/s3test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bucket = "backups"

// config is for a server with TLS.
func config(t *testing.T, server *s3test.Server) s3.Config {
	t.Helper()
	ca, err := os.ReadFile(server.CA.File)
	if err != nil {
		t.Fatal(err)
	}
	return s3.Config{
		Endpoint: server.URL(), Bucket: bucket, CA: ca,
		Credentials: s3.Credentials{AccessKey: s3test.AccessKey, SecretKey: s3test.SecretKey},
	}
}

func open(t *testing.T, cfg s3.Config) *s3.Store {
	t.Helper()
	s, err := s3.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	server := s3test.Start(t, bucket)
	number := 0
	objectstoretest.Run(t, func(t *testing.T) objectstore.Store {
		number++
		cfg := config(t, server)
		cfg.Bucket = bucket + string(rune('a'+number))
		server.MakeBucket(cfg.Bucket)
		return open(t, cfg)
	})
}

func TestPlainHTTPAndPathStyle(t *testing.T) {
	server := s3test.StartPlain(t, bucket)
	cfg := config(t, server)
	cfg.CA, cfg.PathStyle = nil, true
	s := open(t, cfg)
	wantWorks(t, s)
	cfg.Endpoint = server.Address // without http:// it is TLS
	if err := objectstoretest.Put(t.Context(), open(t, cfg), "a", nil); !errors.Is(err, objectstore.ErrInvalid) {
		t.Error(err)
	}
}

func wantWorks(t *testing.T, s objectstore.Store) {
	t.Helper()
	data := objectstoretest.Bytes(20<<20, 1)
	if err := objectstoretest.Put(t.Context(), s, "a/object", data); err != nil {
		t.Fatal(err)
	}
	got, err := objectstoretest.Get(t.Context(), s, "a/object", 0)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestWhatIsConfiguredWrongIsTold(t *testing.T) {
	server := s3test.Start(t, bucket)
	for name, c := range map[string]struct {
		change func(*s3.Config)
		want   error
	}{
		"secret":    {func(c *s3.Config) { c.Credentials.SecretKey = "another" }, objectstore.ErrDenied},
		"key":       {func(c *s3.Config) { c.Credentials.AccessKey = "nobody" }, objectstore.ErrDenied},
		"CA":        {func(c *s3.Config) { c.CA = nil }, objectstore.ErrInvalid},
		"bucket":    {func(c *s3.Config) { c.Bucket = "no-such-bucket" }, objectstore.ErrNoStore},
		"lock":      {func(c *s3.Config) { c.LockMode, c.LockFor = "governance", time.Hour }, objectstore.ErrInvalid}, // the bucket has none
		"skip":      {func(c *s3.Config) { c.CA, c.SkipTLSVerify = nil, true }, nil},
		"localhost": {func(c *s3.Config) { c.Endpoint = "https://localhost:" + port(server.Address) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, server)
			c.change(&cfg)
			s := open(t, cfg)
			for _, size := range []int{1, 9 << 20} {
				err := objectstoretest.Put(t.Context(), s, "a/object", make([]byte, size))
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || err != nil && !objectstore.Permanent(err) {
					t.Errorf("%d bytes: %v", size, err)
				}
				t.Log(err)
			}
		})
	}
	for name, change := range map[string]func(*s3.Config){
		"endpoint with a path": func(c *s3.Config) { c.Endpoint = "https://a/b" },
		"no certificate":       func(c *s3.Config) { c.CA = []byte("x") },
		"proxy":                func(c *s3.Config) { c.Proxy = "proxy" },
		"encryption":           func(c *s3.Config) { c.Encryption = "rot13" },
		"lock mode":            func(c *s3.Config) { c.LockMode, c.LockFor = "hard", time.Hour },
		"lock without a time":  func(c *s3.Config) { c.LockMode = "governance" },
	} {
		cfg := config(t, server)
		change(&cfg)
		if _, err := s3.Open(cfg); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func port(address string) string { return address[len("127.0.0.1:"):] }

// impatient tries again without delay.
func impatient(s objectstore.Store) objectstore.Store {
	return objectstore.Retry(s, objectstore.Patience{First: time.Millisecond, Longest: 10 * time.Millisecond})
}

func TestConnectionCutInTheMiddleOfAPart(t *testing.T) {
	server := s3test.Start(t, bucket)
	proxy := s3test.NewProxy(t, server.Address)
	cfg := config(t, server)
	cfg.Endpoint = "https://" + proxy.Address
	s := impatient(open(t, cfg))
	proxy.Cut(3<<20, 5<<20, 4<<20)
	wantWorks(t, s)
	if left := proxy.Cuts(); left != 0 {
		t.Errorf("%d connections were not cut", left)
	}
}

// A server that goes away in the middle of a read, and comes back, costs nothing but time.
func TestReadingGoesOnWhereItWasCutOff(t *testing.T) {
	server := s3test.Start(t, bucket)
	proxy := s3test.NewProxy(t, server.Address)
	cfg := config(t, server)
	cfg.Endpoint = "https://" + proxy.Address
	s := impatient(open(t, cfg))
	data := objectstoretest.Bytes(30<<20, 3)
	if err := objectstoretest.Put(t.Context(), s, "a/object", data); err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(t.Context(), "a/object", 0)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for i := range 3 {
		if _, err := io.CopyN(&got, r, 5<<20); err != nil {
			t.Fatal(err)
		}
		proxy.CutAll()
		if i == 1 {
			server.Stop()
			server.Run()
		}
	}
	if _, err := io.Copy(&got, r); err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestABucketThatVanishes(t *testing.T) {
	server := s3test.Start(t, bucket)
	s := impatient(open(t, config(t, server)))
	wantWorks(t, s)
	err := s.Put(t.Context(), "a/more", func(w io.Writer) error {
		_, err := w.Write(make([]byte, 20<<20))
		server.Stop() // what is on its way must not make the bucket anew
		server.RemoveBucket(bucket)
		server.Run()
		if err == nil {
			_, err = w.Write(make([]byte, 20<<20))
		}
		return err
	})
	if !errors.Is(err, objectstore.ErrNoStore) && !errors.Is(err, objectstore.ErrInvalid) && !errors.Is(err, objectstore.ErrNotFound) {
		t.Error(err)
	}
	t.Log(err)
	for name, err := range map[string]error{
		"put": objectstoretest.Put(t.Context(), s, "a/object", nil), "delete": s.Delete(t.Context(), "a/object"), "list": firstError(t, s),
	} {
		if !errors.Is(err, objectstore.ErrNoStore) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func firstError(t *testing.T, s objectstore.Store) error {
	t.Helper()
	for _, err := range s.List(t.Context(), "") {
		return err
	}
	return nil
}

// A server that is slow is waited for, as long as something moves; one that stands still is not.
func TestSlowAndStill(t *testing.T) {
	server := s3test.Start(t, bucket)
	proxy := s3test.NewProxy(t, server.Address)
	cfg := config(t, server)
	cfg.Endpoint, cfg.Stall = "https://"+proxy.Address, 4*time.Second
	var moved atomic.Int64
	cfg.Activity = func() { moved.Add(1) }
	proxy.Slow(40 * time.Millisecond)
	began := time.Now()
	wantWorks(t, open(t, cfg))
	if took := time.Since(began); took < cfg.Stall {
		t.Errorf("it took %s: that was not slow", took)
	}
	if moved.Load() == 0 {
		t.Error("no activity was shown")
	}
	proxy.Slow(0)
	proxy.Still()
	cfg.Stall = 500 * time.Millisecond
	noticed := make(chan error, 1)
	s := objectstore.Retry(open(t, cfg), objectstore.Patience{First: time.Millisecond, Notify: func(err error) {
		select {
		case noticed <- err:
			proxy.Wake()
		default:
		}
	}})
	wantWorks(t, s)
	t.Log(<-noticed)
}

func TestThroughAProxy(t *testing.T) {
	server := s3test.StartPlain(t, bucket)
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}).ServeHTTP(w, r)
	}))
	defer proxy.Close()
	cfg := config(t, server)
	cfg.CA, cfg.Proxy = nil, proxy.URL
	wantWorks(t, open(t, cfg))
	if asked.Load() == 0 {
		t.Error("the proxy was not used")
	}
}

// What a killed upload leaves in the bucket goes with Delete.
func TestDeleteRemovesPartsOfAnUploadThatDied(t *testing.T) {
	server := s3test.Start(t, bucket)
	proxy := s3test.NewProxy(t, server.Address)
	cfg := config(t, server)
	cfg.Endpoint, cfg.Stall = "https://"+proxy.Address, 200*time.Millisecond
	direct := open(t, config(t, server))
	err := open(t, cfg).Put(t.Context(), "a/object", func(w io.Writer) error {
		_, err := w.Write(make([]byte, 30<<20)) // its first parts are there by now
		if err == nil {
			proxy.Still() // so that nothing can be cleaned up
			_, err = w.Write(make([]byte, 30<<20))
		}
		return err
	})
	if err == nil {
		t.Fatal("it should have failed")
	}
	if n := parts(t, server); n == 0 {
		t.Fatal("no part was left: this shows nothing")
	}
	if err := direct.Delete(t.Context(), "a/object"); err != nil {
		t.Fatal(err)
	}
	if n := parts(t, server); n != 0 {
		t.Errorf("%d parts are left", n)
	}
}

// parts counts the large files in a server's directories that are no objects.
func parts(t *testing.T, server *s3test.Server) int {
	t.Helper()
	n := 0
	err := filepath.Walk(filepath.Join(server.Dir, bucket), func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Size() >= 5<<20 {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCredentialsFromAFileAndTheEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(secret string) {
		t.Helper()
		text := "[default]\naws_access_key_id = a\naws_secret_access_key = " + secret + "\n[other]\naws_access_key_id = b\naws_secret_access_key = c\naws_session_token = d\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, secret := range []string{"first", "second"} { // rotated: it is read each time
		write(secret)
		if c, err := s3.FromFile(file, ""); err != nil || c != (s3.Credentials{AccessKey: "a", SecretKey: secret}) {
			t.Errorf("%+v, %v", c, err)
		}
	}
	if c, err := s3.FromFile(file, "other"); err != nil || c != (s3.Credentials{AccessKey: "b", SecretKey: "c", SessionToken: "d"}) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := s3.FromFile(file+"-not", ""); err == nil {
		t.Error("a file that is missing must be told")
	}
	if _, err := s3.FromFile(file, "nosuch"); err == nil {
		t.Error("a profile that is missing must be told")
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "e")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "f")
	t.Setenv("AWS_SESSION_TOKEN", "g")
	if c, err := s3.FromChain(t.Context(), s3.Config{}); err != nil || c != (s3.Credentials{AccessKey: "e", SecretKey: "f", SessionToken: "g"}) {
		t.Errorf("%+v, %v", c, err)
	}
}
