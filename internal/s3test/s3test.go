// Package s3test runs a real S3 server for tests: versitygw, built from its Go module, which is pinned in a module file
// of its own (internal/tools/s3.mod). Only tests use it.
package s3test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/loopback"
)

// The keys that a server takes.
const (
	AccessKey = "requorum-test"
	SecretKey = "a-secret-that-only-tests-know"
)

const startWait = 30 * time.Second

// Server is an S3 server on loopback, with TLS by a CA of its own.
type Server struct {
	Address string // host:port
	CA      *etcdtest.CA
	Dir     string // buckets are directories in it

	versions string
	accounts *accounts // besides the one of AccessKey
	plain    bool
	t        testing.TB
	process  *exec.Cmd
}

// Start starts a server with TLS and a bucket, and stops it when the test ends.
func Start(t testing.TB, bucket string) *Server {
	t.Helper()
	return start(t, bucket, false)
}

// StartPlain starts one without TLS.
func StartPlain(t testing.TB, bucket string) *Server {
	t.Helper()
	return start(t, bucket, true)
}

func start(t testing.TB, bucket string, plain bool) *Server {
	t.Helper()
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Address: fmt.Sprintf("127.0.0.1:%d", ports[0]), CA: etcdtest.NewCA(t), Dir: t.TempDir(), versions: t.TempDir(),
		plain: plain, t: t,
	}
	s.MakeBucket(bucket)
	s.startAccounts()
	s.Run()
	t.Cleanup(s.Stop)
	return s
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(name string) {
	s.t.Helper()
	if err := os.Mkdir(filepath.Join(s.Dir, name), 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// RemoveBucket takes a bucket away with all that is in it.
func (s *Server) RemoveBucket(name string) {
	s.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

// URL returns the server's endpoint.
func (s *Server) URL() string {
	if s.plain {
		return "http://" + s.Address
	}
	return "https://" + s.Address
}

// Run starts the server again after Stop, with what is in its buckets.
func (s *Server) Run() {
	s.t.Helper()
	args := []string{
		"--access", AccessKey, "--secret", SecretKey, "--port", s.Address, "--quiet", "--health", "/health", "--keep-alive",
		"--region", region, "--iam-standalone-endpoint", s.accounts.private(),
	}
	if !s.plain {
		cert, key := s.CA.IssueFor(s.t, "s3", "127.0.0.1", "localhost")
		args = append(args, "--cert", cert, "--key", key)
	}
	s.process = exec.Command(Binary(s.t), append(args, "posix", "--versioning-dir", s.versions, s.Dir)...)
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CA.Pool(), MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	s.await(client, s.URL()+"/health")
}

func (s *Server) await(client *http.Client, health string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := answers(ctx, client, health)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("the S3 server does not answer at %s: %v", health, err)
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// Stop ends the server as a crash would. Its buckets stay.
func (s *Server) Stop() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	s.kill(s.process)
	s.process = nil
}

func (s *Server) kill(process *exec.Cmd) {
	err := process.Process.Kill()
	if _, exited := errors.AsType[*exec.ExitError](process.Wait()); err != nil || !exited {
		s.t.Errorf("stop %s: %v", process.Args[0], err)
	}
}

var built struct {
	sync.Once
	path string
	err  error
}

// Binary returns the server's binary: the one that REQUORUM_S3_BIN names, or one that is built once for all tests of
// the process. The first time compiles it, which takes minutes.
func Binary(t testing.TB) string {
	t.Helper()
	built.Do(func() { built.path, built.err = findOrBuild() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

func findOrBuild() (string, error) {
	if path := os.Getenv("REQUORUM_S3_BIN"); path != "" {
		return path, nil
	}
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("requorum-e2e-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "versitygw")
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	cmd := exec.Command("go", "build", "-buildvcs=false", "-modfile=internal/tools/s3.mod", "-o", fresh, "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(file), "..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the S3 server: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return path, os.Rename(fresh, path)
}
