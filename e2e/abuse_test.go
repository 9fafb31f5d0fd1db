package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/loopback"
	"github.com/requorum/requorum/internal/pki"
)

// mostGrowth is how much larger a controller may be after all the abuse than before.
const mostGrowth = 96 << 20

// alone is a controller without any node.
type alone struct {
	*testing.T
	process *dev.Process
	bin     string
	dir     string
	address string
	admin   *pki.Credentials
	source  net.Dialer // of those who abuse it: each has an address of its own, since refusals are bounded by source
}

func startAlone(t *testing.T) *alone {
	t.Helper()
	bin, _ := harness.Binaries(t)
	ports, err := loopback.Ports(1)
	must(t, err)
	a := &alone{T: t, bin: bin, dir: t.TempDir(), address: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	a.process = &dev.Process{Name: "controller", Binary: bin, Dir: a.dir, Args: []string{"controller", "--data-dir", filepath.Join(a.dir, "data"), "--listen", a.address}}
	must(t, a.process.Start())
	t.Cleanup(func() {
		must(t, a.process.Stop())
		if t.Failed() {
			t.Log(a.log())
		}
	})
	admin := filepath.Join(a.dir, "data", "admin")
	eventually(t, "the controller does not answer", func(ctx context.Context) error {
		creds, err := pki.LoadCredentials(filepath.Join(admin, "client.crt"), filepath.Join(admin, "client.key"), filepath.Join(admin, "ca.crt"))
		if err != nil {
			return err
		}
		a.admin = creds
		return a.serves(ctx)
	})
	return a
}

// serves fails unless the controller answers an admin.
func (a *alone) serves(ctx context.Context) error {
	conn, err := grpc.NewClient(a.address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.admin, pki.ControllerIdentity()))))
	if err != nil {
		return err
	}
	_, err = requorumv1.NewClusterServiceClient(conn).ListClusters(ctx, &requorumv1.ListClustersRequest{})
	return errors.Join(err, conn.Close())
}

func (a *alone) log() string {
	text, err := os.ReadFile(a.process.Log())
	must(a.T, err)
	return string(text)
}

// logs waits until the log says all these words in one line.
func (a *alone) logs(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log has no line with %q", words), func(context.Context) error {
		for line := range strings.Lines(a.log()) {
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(line, word)
			}
			if !missing {
				return nil
			}
		}
		return errors.New("no such line")
	})
}

// memory is the controller's resident memory, in bytes.
func (a *alone) memory() int64 {
	a.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.process.PID()))
	must(a.T, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			must(a.T, err)
			return kib << 10
		}
	}
	a.Fatal("the controller's memory cannot be told")
	return 0
}

// dial connects as somebody, or without a certificate.
func (a *alone) dial(t *testing.T, creds *pki.Credentials) *grpc.ClientConn {
	t.Helper()
	config := pki.PinnedTLS(a.fingerprint())
	if creds != nil {
		config = pki.ClientTLS(creds, pki.ControllerIdentity())
	}
	source := a.source
	conn, err := grpc.NewClient("passthrough:///"+a.address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return source.DialContext(ctx, "tcp", address)
		}))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // closed twice is as good
	return conn
}

func (a *alone) fingerprint() string {
	a.Helper()
	token, err := pki.ParseToken(a.token(a.T, &requorumv1.CreateTokenRequest{Cluster: "fingerprint"}))
	must(a.T, err)
	return token.CAFingerprint
}

func (a *alone) token(t *testing.T, req *requorumv1.CreateTokenRequest) string {
	t.Helper()
	conn, err := grpc.NewClient(a.address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.admin, pki.ControllerIdentity()))))
	must(t, err)
	defer conn.Close()
	resp, err := requorumv1.NewAccessServiceClient(conn).CreateToken(t.Context(), req)
	must(t, err)
	return resp.GetToken()
}

// enrol exchanges a token for a node's credentials, with a key of its own.
func (a *alone) enrol(t *testing.T, token, node string) (*pki.Credentials, error) {
	t.Helper()
	return enroll.Ensure(t.Context(), enroll.Options{
		Dir: t.TempDir(), ControllerAddress: a.address, Token: token, Node: node, Log: hclog.NewNullLogger(),
	})
}

func (a *alone) node(t *testing.T, cluster, node string) *pki.Credentials {
	t.Helper()
	creds, err := a.enrol(t, a.token(t, &requorumv1.CreateTokenRequest{Cluster: cluster}), node)
	must(t, err)
	return creds
}

// operator makes an operator by the command line and returns the credentials and the configuration's path.
func (a *alone) operator(t *testing.T, name, role string) (creds *pki.Credentials, config string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	a.do(t, "access", "create", "--name", name, "--role", role, "--out", dir)
	creds, err := pki.LoadCredentials(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"), filepath.Join(dir, "ca.crt"))
	must(t, err)
	return creds, filepath.Join(dir, "requorum.yaml")
}

// do runs a command as the first admin.
func (a *alone) do(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), a.bin, args...)
	cmd.Env = append(os.Environ(), "REQUORUM_CONFIG="+filepath.Join(a.dir, "data", "admin", "requorum.yaml"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("requorum %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Whoever abuses the controller is refused, which its log tells, and it serves everybody else within bounded memory.
func TestAbuse(t *testing.T) {
	t.Parallel()
	a := startAlone(t)
	before := a.memory()
	for i, abuse := range []struct {
		name string
		by   func(*testing.T, *alone)
	}{
		{"node of another cluster", nodeOfAnotherCluster},
		{"viewer that changes", viewerThatChanges},
		{"bad tokens", spoiltTokens},
		{"removed node", removedNode},
		{"revoked operator", revokedOperator},
		{"no TLS as it must be", noProperTLS},
		{"large messages", largeMessages},
		{"large metadata", largeMetadata},
		{"silent connections", silentConnections},
		{"a thousand connections", thousandConnections},
		{"a flood of enrolments", floodOfEnrolments},
	} {
		t.Run(abuse.name, func(t *testing.T) {
			a.source.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(i+1))}
			abuse.by(t, a)
			eventually(t, "the controller does not serve any more", a.serves)
			if grown := a.memory() - before; grown > mostGrowth {
				t.Errorf("the controller has grown by %d MiB", grown>>20)
			} else {
				t.Logf("the controller has grown by %d MiB", grown>>20)
			}
		})
	}
	if !a.process.Running() {
		t.Error("the controller has died")
	}
}

func nodeOfAnotherCluster(t *testing.T, a *alone) {
	ours, theirs := a.node(t, "ours", "etcd-1"), a.node(t, "theirs", "etcd-1")
	hello := &agentv1.OpenSessionRequest{AgentVersion: "v1", TransferAddress: "127.0.0.1:1", Runtime: "process"}
	session, err := agentv1.NewSessionServiceClient(a.dial(t, ours)).OpenSession(t.Context(), hello)
	must(t, err)
	first, err := session.Recv()
	must(t, err)
	beat := &agentv1.HeartbeatRequest{SessionId: first.GetOpened().GetSessionId()}
	_, err = agentv1.NewSessionServiceClient(a.dial(t, theirs)).Heartbeat(t.Context(), beat)
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a heartbeat in the session of another cluster's node of the same name: %v", err)
	}
	_, err = agentv1.NewSessionServiceClient(a.dial(t, ours)).Heartbeat(t.Context(), beat)
	must(t, err)
	conn := a.dial(t, theirs)
	for method := range methods("requorum.v1") {
		if code := callEmpty(t, conn, method); code != codes.PermissionDenied {
			t.Errorf("a node calls %s: %s", method, code)
		}
	}
	a.logs(t, "call refused", "node etcd-1 of cluster theirs", "ListClusters", "peer=127.0.2.")
}

// methods returns every RPC of a package, from what the services declare.
func methods(of protoreflect.FullName) map[string]protoreflect.MethodDescriptor {
	all := make(map[string]protoreflect.MethodDescriptor)
	protoregistry.GlobalFiles.RangeFilesByPackage(of, func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				all[string(service.FullName())+"/"+string(method.Name())] = method
			}
		}
		return true
	})
	return all
}

// An RPC changes something unless its name says that it looks. Who is let in is for admins to see.
func viewerThatChanges(t *testing.T, a *alone) {
	viewer, _ := a.operator(t, "looks", "viewer")
	conn := a.dial(t, viewer)
	changes := 0
	for name, method := range methods("requorum.v1") {
		reads := method.Name() != "ListOperatorCertificates" && method.Name() != "ListEntries" && slices.ContainsFunc([]string{"List", "Get", "Watch", "Wait", "Plan"}, func(verb string) bool {
			return strings.HasPrefix(string(method.Name()), verb)
		})
		if code := callEmpty(t, conn, name); reads == (code == codes.PermissionDenied) {
			t.Errorf("a viewer calls %s: %s", name, code)
		}
		if !reads {
			changes++
		}
	}
	if changes < 8 {
		t.Errorf("only %d RPCs change anything", changes)
	}
	a.logs(t, "call refused", "operator looks (viewer)", "StartRestore", "peer=127.0.2.")
}

// callEmpty calls a method, of whatever kind, with an empty message.
func callEmpty(t *testing.T, conn *grpc.ClientConn, method string) codes.Code {
	t.Helper()
	return callWith(t, conn, method, &emptypb.Empty{})
}

func callWith(t *testing.T, conn *grpc.ClientConn, method string, message any) codes.Code {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+method)
	if err != nil {
		return status.Code(err)
	}
	if err := stream.SendMsg(message); err != nil && !errors.Is(err, io.EOF) {
		return status.Code(err)
	}
	_ = stream.CloseSend() // that it has ended is told by what comes
	if err := stream.RecvMsg(&emptypb.Empty{}); !errors.Is(err, io.EOF) {
		return status.Code(err)
	}
	return codes.OK
}

func spoiltTokens(t *testing.T, a *alone) {
	good := a.token(t, &requorumv1.CreateTokenRequest{Cluster: "tokens"})
	parsed, err := pki.ParseToken(good)
	must(t, err)
	refused := func(what, token, node, says string) {
		t.Helper()
		if _, err := a.enrol(t, token, node); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = a.enrol(t, good, "etcd-1")
	must(t, err)
	refused("used again by somebody else", good, "etcd-1", "used this join token before")
	expired := a.token(t, &requorumv1.CreateTokenRequest{Cluster: "tokens", Ttl: durationpb.New(time.Nanosecond)})
	refused("expired", expired, "etcd-2", "has expired")
	refused("cut off", good[:len(good)-1], "etcd-2", "its end is cut off or changed")
	refused("garbled", "rq1:tokens:nonsense", "etcd-2", "cut off")
	other := parsed
	other.CAFingerprint = strings.Repeat("0", 64)
	refused("of another CA", other.String(), "etcd-2", pki.ErrPinned.Error())
	guessed, err := pki.NewToken("tokens", parsed.CAFingerprint)
	must(t, err)
	refused("guessed", guessed.String(), "etcd-2", "is not known")
	a.logs(t, "enrolment refused", "used this join token before", "node=etcd-1", "peer=127.0.0.1:")
	a.logs(t, "enrolment refused", "has expired")
	for _, token := range []string{good, expired, guessed.String()} {
		if secret := strings.Split(token, ":")[3]; strings.Contains(a.log(), secret) {
			t.Error("the log has the secret of a token")
		}
	}
}

func removedNode(t *testing.T, a *alone) {
	creds := a.node(t, "shrinks", "etcd-1")
	client := agentv1.NewSessionServiceClient(a.dial(t, creds))
	session, err := client.OpenSession(t.Context(), &agentv1.OpenSessionRequest{AgentVersion: "v1", TransferAddress: "127.0.0.1:1"})
	must(t, err)
	_, err = session.Recv()
	must(t, err)
	a.do(t, "cluster", "remove-node", "shrinks", "etcd-1")
	if _, err := session.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("its session: %v", err)
	}
	for method := range methods("requorum.agent.v1") {
		if strings.HasSuffix(method, "/Enroll") || strings.HasSuffix(method, "/Fetch") {
			continue // for those without a certificate; of agents
		}
		if code := callEmpty(t, a.dial(t, creds), method); code != codes.Unauthenticated {
			t.Errorf("%s: %s", method, code)
		}
	}
	a.logs(t, "call refused", "node etcd-1 of cluster shrinks", "was removed")
}

func revokedOperator(t *testing.T, a *alone) {
	creds, config := a.operator(t, "leaves", "admin")
	watch, err := requorumv1.NewOperationServiceClient(a.dial(t, creds)).WatchOperation(t.Context(), &requorumv1.WatchOperationRequest{Id: "none"})
	must(t, err)
	if _, err := watch.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("before: %v", err)
	}
	a.do(t, "access", "revoke", creds.Certificate().SerialNumber.Text(16))
	cmd := exec.CommandContext(t.Context(), a.bin, "--config", config, "cluster", "ls")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "revoked") {
		t.Errorf("after: %v\n%s", err, out)
	}
	for method := range methods("requorum.v1") {
		if code := callEmpty(t, a.dial(t, creds), method); code != codes.Unauthenticated {
			t.Errorf("%s: %s", method, code)
		}
	}
	a.logs(t, "operator certificate revoked", "operator=leaves")
	a.logs(t, "call refused", "operator leaves (admin)", "the key is revoked")
}

func noProperTLS(t *testing.T, a *alone) {
	conn, err := a.source.Dial("tcp", a.address)
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: requorum\r\n\r\n")
	must(t, err)
	closedByTheOther(t, conn)
	a.logs(t, "connection refused", "does not look like a TLS handshake", "peer="+conn.LocalAddr().String())
	old := pki.PinnedTLS(a.fingerprint())
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
	if conn, err := tls.DialWithDialer(&a.source, "tcp", a.address, old); err == nil {
		t.Errorf("TLS %x is spoken", conn.ConnectionState().Version)
		must(t, conn.Close())
	}
	a.logs(t, "connection refused", "unsupported versions")
	other := startAlone(t)
	stranger := pki.ClientTLS(other.admin, pki.ControllerIdentity())
	config := pki.PinnedTLS(a.fingerprint())
	config.GetClientCertificate, config.NextProtos = stranger.GetClientCertificate, []string{"h2"}
	if conn, err := tls.DialWithDialer(&a.source, "tcp", a.address, config); err == nil {
		closedByTheOther(t, conn)
	}
	a.logs(t, "connection refused", "certificate signed by unknown authority")
}

// closedByTheOther waits until the controller closes a connection, whatever it says before.
func closedByTheOther(t *testing.T, conn net.Conn) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(harness.Patience)))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection from %s is still open", conn.LocalAddr())
	}
	_ = conn.Close() // it is closed at the other end
}

func largeMessages(t *testing.T, a *alone) {
	large := wrapperspb.Bytes(make([]byte, 8<<20))
	nodes, admins, strangers := a.dial(t, a.node(t, "large", "etcd-1")), a.dial(t, a.admin), a.dial(t, nil)
	for method := range methods("requorum.v1") {
		if code := callWith(t, admins, method, large); code != codes.ResourceExhausted {
			t.Errorf("%s: %s", method, code)
		}
	}
	for method := range methods("requorum.agent.v1") {
		if strings.HasSuffix(method, "/Fetch") {
			continue // of agents
		}
		if code := callWith(t, nodes, method, large); code != codes.ResourceExhausted {
			t.Errorf("%s: %s", method, code)
		}
	}
	for method := range methods("requorum.v1") { // before a byte of it is read
		if code := callWith(t, strangers, method, large); code != codes.Unauthenticated {
			t.Errorf("without a certificate, %s: %s", method, code)
		}
	}
}

func largeMetadata(t *testing.T, a *alone) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 1<<20)), harness.Patience)
	defer cancel()
	_, err := requorumv1.NewClusterServiceClient(a.dial(t, a.admin)).ListClusters(ctx, &requorumv1.ListClustersRequest{})
	if err == nil {
		t.Error("it is read")
	}
}

// Connections that never come to anything are closed: in TCP, in the middle of TLS, after TLS, and with a call whose
// message never comes.
func silentConnections(t *testing.T, a *alone) {
	var conns []net.Conn
	for i := range 90 {
		conn, err := a.source.Dial("tcp", a.address)
		must(t, err)
		switch i % 3 {
		case 1: // the beginning of a handshake
			_, err = conn.Write([]byte{22, 3, 1, 1, 0})
		case 2: // TLS, and half of HTTP/2's preface
			config := pki.PinnedTLS(a.fingerprint())
			config.NextProtos = []string{"h2"}
			secure := tls.Client(conn, config)
			conn = secure
			_, err = secure.Write([]byte("PRI * HTTP"))
		}
		must(t, err)
		conns = append(conns, conn)
	}
	stream, err := a.dial(t, nil).NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/requorum.agent.v1.EnrollService/Enroll")
	must(t, err)
	must(t, a.serves(t.Context()))
	for _, conn := range conns {
		closedByTheOther(t, conn)
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err == nil {
		t.Error("a call without a message is answered")
	}
}

func thousandConnections(t *testing.T, a *alone) {
	viewer, _ := a.operator(t, "many", "viewer")
	for what, config := range map[string]*tls.Config{
		"without a certificate": pki.PinnedTLS(a.fingerprint()),
		"of one identity":       pki.ClientTLS(viewer, pki.ControllerIdentity()),
	} {
		config.NextProtos = []string{"h2"}
		served := 0
		for range 1000 {
			conn, err := tls.DialWithDialer(&a.source, "tcp", a.address, config)
			if err != nil {
				continue
			}
			defer conn.Close()
			must(t, conn.SetReadDeadline(time.Now().Add(harness.Patience)))
			if _, err := conn.Read(make([]byte, 9)); err == nil { // HTTP/2's settings
				served++
			}
		}
		if served == 0 || served > 200 {
			t.Errorf("%d of 1000 connections %s are served", served, what)
		}
		t.Logf("%d of 1000 connections %s are served", served, what)
	}
	a.logs(t, "connection refused", "too many connections without a certificate")
	a.logs(t, "connection refused", "operator many (viewer) has", "connections already")
}

func floodOfEnrolments(t *testing.T, a *alone) {
	guess, err := pki.NewToken("flood", a.fingerprint())
	must(t, err)
	conn := a.dial(t, nil)
	got := map[codes.Code]int{}
	for range 2000 {
		_, err := agentv1.NewEnrollServiceClient(conn).Enroll(t.Context(), &agentv1.EnrollRequest{TokenId: guess.ID, TokenSecret: guess.Secret, Node: "etcd-1"})
		got[status.Code(err)]++
	}
	if got[codes.ResourceExhausted] < 1500 || got[codes.OK] > 0 {
		t.Errorf("2000 guesses were answered with %v", got)
	}
	if lines := strings.Count(a.log(), "enrolment refused"); lines > 1000 {
		t.Errorf("they have filled the log with %d lines", lines)
	}
}
