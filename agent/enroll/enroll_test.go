package enroll_test

import (
	"context"
	"crypto"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// controller signs whatever it is asked to, unless it is told what to answer instead.
type controller struct {
	agentv1.UnimplementedEnrollServiceServer
	t       *testing.T
	ca      *pki.Authority
	address string

	mu      sync.Mutex
	answers []error // what the next calls fail with, after they took effect
	asked   []*agentv1.EnrollRequest
	keys    []string // fingerprints of the keys that were asked for
	ttl     time.Duration
}

func newController(t *testing.T) *controller {
	t.Helper()
	ca, err := pki.LoadOrCreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &controller{t: t, ca: ca, ttl: time.Hour}
}

// serve makes the controller reachable at address; port 0 for any.
func (c *controller) serve(address string) {
	c.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		c.t.Fatal(err)
	}
	certPEM, err := c.ca.Issue(key.Public(), pki.ControllerIdentity(), time.Hour, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	creds, err := pki.NewCredentials(certPEM, pemOf(c.t, key), c.ca.CAPEM())
	if err != nil {
		c.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.address = listener.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(pki.ServerTLS(creds))))
	agentv1.RegisterEnrollServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(server, listener) }()
	c.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			c.t.Error(err)
		}
	})
}

func (c *controller) Enroll(_ context.Context, req *agentv1.EnrollRequest) (*agentv1.EnrollResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, req)
	certPEM, err := c.sign(req.GetCsr(), pki.NodeIdentity("prod", req.GetNode()))
	return &agentv1.EnrollResponse{Certificate: certPEM, Ca: c.ca.CAPEM()}, err
}

func (c *controller) Renew(ctx context.Context, req *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	id, _, err := pki.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	certPEM, err := c.sign(req.GetCsr(), id)
	return &agentv1.RenewResponse{Certificate: certPEM, Ca: c.ca.CAPEM()}, err
}

func (c *controller) sign(csr []byte, id pki.Identity) ([]byte, error) {
	pub, err := pki.PublicKeyFromCSR(csr)
	if err != nil {
		return nil, err
	}
	c.keys = append(c.keys, pki.KeyFingerprint(pub))
	if len(c.answers) > 0 {
		err, c.answers = c.answers[0], c.answers[1:]
		return nil, err
	}
	return c.ca.Issue(pub, id, c.ttl, nil)
}

func (c *controller) token() string { return c.tokenFor("prod") }

func (c *controller) tokenFor(cluster string) string {
	c.t.Helper()
	token, err := pki.NewToken(cluster, c.ca.Fingerprint())
	if err != nil {
		c.t.Fatal(err)
	}
	return token.String()
}

func (c *controller) options(dir, token string) enroll.Options {
	return enroll.Options{Dir: dir, ControllerAddress: c.address, Token: token, Node: "etcd-1", Log: hclog.NewNullLogger()}
}

func TestFirstStartEnrolsAndLaterOnesLoad(t *testing.T) {
	c, dir := newController(t), filepath.Join(t.TempDir(), "agent", "pki")
	c.serve("127.0.0.1:0")
	token := c.token()
	creds := ensure(t, c.options(dir, token))
	if want := pki.NodeIdentity("prod", "etcd-1"); creds.Identity() != want {
		t.Errorf("credentials of %s", creds.Identity())
	}
	for _, later := range []string{token, ""} {
		if again := ensure(t, c.options(dir, later)); !again.Certificate().Equal(creds.Certificate()) {
			t.Error("enrolled again")
		}
	}
	if len(c.asked) != 1 {
		t.Errorf("asked %d times", len(c.asked))
	}
	mustBePrivate(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "enroll.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the pending key is still there")
	}
}

func TestLostAnswerIsAskedForAgainWithTheSameKey(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	lost := status.Error(codes.Unavailable, "connection lost")
	c.answers = []error{lost, lost}
	ensure(t, c.options(dir, c.token()))
	if len(c.keys) != 3 || c.keys[0] != c.keys[1] || c.keys[1] != c.keys[2] {
		t.Errorf("keys %v", c.keys)
	}
}

func TestCrashBeforeTheAnswerIsSavedKeepsTheKey(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	c.answers = []error{status.Error(codes.Internal, "crashed")}
	token := c.token()
	if _, err := enroll.Ensure(t.Context(), c.options(dir, token)); status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	ensure(t, c.options(dir, token))
	if len(c.keys) != 2 || c.keys[0] != c.keys[1] {
		t.Errorf("keys %v", c.keys)
	}
}

func TestRefusalIsFinal(t *testing.T) {
	c := newController(t)
	c.serve("127.0.0.1:0")
	c.answers = []error{status.Error(codes.PermissionDenied, "the join token has expired")}
	_, err := enroll.Ensure(t.Context(), c.options(t.TempDir(), c.token()))
	if status.Code(err) != codes.PermissionDenied || len(c.asked) != 1 {
		t.Fatalf("asked %d times: %v", len(c.asked), err)
	}
}

func TestControllerOfAnotherCAGetsNoSecret(t *testing.T) {
	c, impostor := newController(t), newController(t)
	impostor.serve("127.0.0.1:0")
	o := impostor.options(t.TempDir(), c.token())
	if _, err := enroll.Ensure(t.Context(), o); !errors.Is(err, pki.ErrPinned) {
		t.Fatal(err)
	}
	if len(impostor.asked) != 0 {
		t.Fatal("the impostor was told the secret")
	}
}

func TestControllerThatIsNotThereYetIsWaitedFor(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	failed := make(chan struct{}, 100)
	o := c.options(dir, c.token())
	o.Log = hclog.New(&hclog.LoggerOptions{Output: signal(failed)})
	done := make(chan error, 1)
	go func() { _, err := enroll.Ensure(t.Context(), o); done <- err }()
	<-failed
	c.serve(c.address)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	c := newController(t)
	c.address = "127.0.0.1:1"
	cause := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	o := c.options(t.TempDir(), c.token())
	o.Log = hclog.New(&hclog.LoggerOptions{Output: writerFunc(func() { cancel(cause) })})
	if _, err := enroll.Ensure(ctx, o); !errors.Is(err, cause) {
		t.Fatal(err)
	}
}

func TestNodeThatCannotEnrolSaysWhatToDo(t *testing.T) {
	c := newController(t)
	c.address = "127.0.0.1:1"
	o := c.options(t.TempDir(), "")
	if _, err := enroll.Ensure(t.Context(), o); !errors.Is(err, enroll.ErrNoToken) || !strings.Contains(err.Error(), "requorum token create") {
		t.Errorf("no token: %v", err)
	}
	o.Token = "rq1:prod"
	if _, err := enroll.Ensure(t.Context(), o); !errors.Is(err, pki.ErrToken) {
		t.Errorf("half a token: %v", err)
	}
	o.Node = "a/b"
	if _, err := enroll.Ensure(t.Context(), o); err == nil {
		t.Error("bad name accepted")
	}
}

func TestExpiredCertificateNeedsANewToken(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	c.ttl = 1
	token := c.token()
	ensure(t, c.options(dir, token))
	c.ttl = time.Hour
	for _, old := range []string{token, "", "garbage"} {
		_, err := enroll.Ensure(t.Context(), c.options(dir, old))
		if !errors.Is(err, enroll.ErrExpired) || !strings.Contains(err.Error(), "node etcd-1") || !strings.Contains(err.Error(), "requorum token create --cluster prod --node etcd-1") {
			t.Errorf("with token %.5q: %v", old, err)
		}
	}
	if creds := ensure(t, c.options(dir, c.token())); time.Now().After(creds.NotAfter()) {
		t.Error("still expired")
	}
	if c.keys[0] == c.keys[1] {
		t.Error("enrolled again with the old key")
	}
}

func TestNewTokenEnrolsAgainButNeverLosesGoodCredentials(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	first := ensure(t, c.options(dir, c.token()))
	c.answers = []error{status.Error(codes.AlreadyExists, "taken")}
	if kept := ensure(t, c.options(dir, c.token())); !kept.Certificate().Equal(first.Certificate()) {
		t.Error("lost good credentials to a refusal")
	}
	unreachable := c.options(dir, c.token())
	unreachable.ControllerAddress = "127.0.0.1:1"
	if kept := ensure(t, unreachable); !kept.Certificate().Equal(first.Certificate()) {
		t.Error("lost good credentials to a controller that is away")
	}
	if second := ensure(t, c.options(dir, c.token())); second.Certificate().Equal(first.Certificate()) {
		t.Error("the new token was not used")
	}
}

func TestCredentialsOfAnotherNodeOrClusterAreNotTakenOver(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	ensure(t, c.options(dir, c.token()))
	renamed := c.options(dir, "")
	renamed.Node = "etcd-2"
	if _, err := enroll.Ensure(t.Context(), renamed); !errors.Is(err, enroll.ErrOtherNode) {
		t.Errorf("another node: %v", err)
	}
	if _, err := enroll.Ensure(t.Context(), c.options(dir, c.tokenFor("dev"))); !errors.Is(err, enroll.ErrOtherNode) {
		t.Errorf("another cluster: %v", err)
	}
}

func TestAnswerForAnotherClusterIsRefused(t *testing.T) {
	c := newController(t)
	c.serve("127.0.0.1:0")
	if _, err := enroll.Ensure(t.Context(), c.options(t.TempDir(), c.tokenFor("dev"))); !errors.Is(err, enroll.ErrOtherNode) {
		t.Fatal(err)
	}
}

func TestRenewalOverTheRealLink(t *testing.T) {
	c, dir := newController(t), t.TempDir()
	c.serve("127.0.0.1:0")
	c.ttl = 3 * time.Second // due after 2
	creds := ensure(t, c.options(dir, c.token()))
	c.mu.Lock()
	c.ttl = time.Hour
	c.mu.Unlock()
	first, changed := creds.Certificate(), creds.Changed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- enroll.KeepFresh(ctx, creds, enroll.Controller(c.address, creds), hclog.NewNullLogger())
	}()
	select {
	case <-changed:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	saved, err := pki.LoadBundle(dir)
	if err != nil || saved.Certificate().Equal(first) || !saved.Certificate().Equal(creds.Certificate()) {
		t.Errorf("the new certificate is not what is saved: %v", err)
	}
}

func ensure(t *testing.T, o enroll.Options) *pki.Credentials {
	t.Helper()
	creds, err := enroll.Ensure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func mustBePrivate(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func pemOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	text, err := pki.KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// writerFunc is called for every line that is logged.
type writerFunc func()

func (f writerFunc) Write(line []byte) (int, error) { f(); return len(line), nil }

func signal(c chan<- struct{}) writerFunc { return func() { c <- struct{}{} } }
