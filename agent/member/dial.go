package member

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// keepaliveTime is how often a call that takes long, such as HashKV or a snapshot, makes sure that the member
// still lives. etcd ends connections that ask more often than every 5 s.
const keepaliveTime = 10 * time.Second

const (
	// refusalTimeout bounds waiting for a refusal that a failed connection may have hidden.
	refusalTimeout = time.Second
	// passthrough makes gRPC take an address as it is.
	passthrough = "passthrough:///"
)

// ask is one or several RPCs on one connection. It may be called again, after a login or at another endpoint.
type ask func(ctx context.Context, conn *grpc.ClientConn) error

// call connects, asks and disconnects. what names it in errors.
func (m *Member) call(ctx context.Context, what string, f ask) error {
	conn, err := m.connect(ctx, what, f)
	if err != nil {
		return err
	}
	return conn.Close()
}

// connect returns the connection on which f succeeded. Where an endpoint cannot be reached it tries the next.
func (m *Member) connect(ctx context.Context, what string, f ask) (*grpc.ClientConn, error) {
	if len(m.cfg.Endpoints) == 0 {
		return nil, &CallError{Endpoint: "?", Call: what, Err: errors.New("no endpoint; set endpoints in the agent's etcd section to the member's client URL")}
	}
	var failed error
	for _, endpoint := range m.cfg.Endpoints {
		conn, err := m.dial(endpoint)
		if err == nil {
			if err = m.askLoggedIn(ctx, conn, f); err == nil {
				return conn, nil
			}
			err = errors.Join(etcdError(m.explain(ctx, endpoint, err)), conn.Close())
		}
		failed = errors.Join(failed, &CallError{Endpoint: endpoint, Call: what, Err: err})
		if !unreachable(err) || ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// unreachable tells whether the connection failed, as against an answer of etcd.
func unreachable(err error) bool {
	var answer rpctypes.EtcdError
	return status.Code(err) == codes.Unavailable && !errors.As(err, &answer)
}

// explain puts the member's refusal of the client certificate in front of an error that hides it: in TLS 1.3
// the refusal comes after the handshake, when gRPC writes already and reports a broken pipe.
func (m *Member) explain(ctx context.Context, endpoint string, err error) error {
	target, secure, targetErr := m.target(endpoint)
	if targetErr != nil || !secure || !unreachable(etcdError(err)) || strings.Contains(err.Error(), "tls:") {
		return err
	}
	cfg, tlsErr := m.tls()
	if tlsErr != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, refusalTimeout)
	defer cancel()
	network, address := "tcp", strings.TrimPrefix(target, passthrough)
	if path, isUnix := strings.CutPrefix(target, "unix:"); isUnix {
		network, address = "unix", path
	}
	cfg.NextProtos = []string{"h2"}
	conn, dialErr := (&tls.Dialer{Config: cfg}).DialContext(ctx, network, address)
	if dialErr != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok && conn.SetReadDeadline(deadline) != nil {
		return err
	}
	_, refusal := conn.Read(make([]byte, 1))
	var remote *net.OpError
	if errors.As(refusal, &remote) && remote.Op == "remote error" {
		return fmt.Errorf("%w: %w", refusal, err)
	}
	return err
}

// askLoggedIn asks with the token of the last login, if there was one, and logs in where etcd wants it.
func (m *Member) askLoggedIn(ctx context.Context, conn *grpc.ClientConn, f ask) error {
	known := m.lastToken()
	err := f(withToken(ctx, known.text), conn)
	if isAny(etcdError(err), context.DeadlineExceeded) {
		m.forget(known) // the member may be waiting for the token's index, and would the next time
	}
	if m.cfg.Username == "" || !wantsLogin(etcdError(err)) {
		return err
	}
	fresh, err := m.login(ctx, conn)
	if err != nil {
		return err
	}
	return f(withToken(ctx, fresh), conn)
}

func (m *Member) lastToken() token {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.token
}

// forget makes the next call log in, unless there was another login meanwhile.
func (m *Member) forget(old token) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.token == old {
		m.token = token{}
	}
}

// forgetOthers makes the next call log in if the last login was to another cluster than that.
func (m *Member) forgetOthers(clusterID string) {
	if known := m.lastToken(); clusterID != "" && known.clusterID != clusterID {
		m.forget(known)
	}
}

func (m *Member) login(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	password, err := os.ReadFile(m.cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password_file in the agent's etcd section: %w", err)
	}
	ctx, cancel := context.WithTimeout(requireLeader(ctx), consensusTimeout)
	defer cancel()
	r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{
		Name: m.cfg.Username, Password: strings.TrimRight(string(password), "\r\n"),
	})
	if err != nil {
		return "", fmt.Errorf("log in as %s: %w", m.cfg.Username, etcdError(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.token = token{text: r.Token, clusterID: id(r.GetHeader().GetClusterId())}
	return r.Token, nil
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// requireLeader makes a member without a leader answer at once instead of waiting for one.
func requireLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// etcdError gives etcd's own errors and those of contexts their identity, so that errors.Is finds them.
func etcdError(err error) error {
	var known rpctypes.EtcdError
	if err == nil || errors.As(err, &known) {
		return err
	}
	if errors.As(rpctypes.Error(err), &known) {
		return known
	}
	switch s, _ := status.FromError(err); s.Code() {
	case codes.DeadlineExceeded:
		return fmt.Errorf("%w: %s", context.DeadlineExceeded, s.Message())
	case codes.Canceled:
		return fmt.Errorf("%w: %s", context.Canceled, s.Message())
	}
	return err
}

// dial prepares a connection, reading the files again. The first RPC connects, and fails if that fails.
func (m *Member) dial(endpoint string) (*grpc.ClientConn, error) {
	target, secure, err := m.target(endpoint)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if secure {
		cfg, err := m.tls()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(cfg)
	}
	return grpc.NewClient(target,
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: m.cfg.DialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTime}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	)
}

// target translates a client URL to gRPC's name. Without a scheme, TLS is taken where there are files for it.
func (m *Member) target(endpoint string) (target string, secure bool, err error) {
	if !strings.Contains(endpoint, "://") {
		return passthrough + endpoint, m.cfg.CAFile != "" || m.cfg.CertFile != "", nil
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", false, err
	}
	switch u.Scheme {
	case "http", "https":
		return passthrough + u.Host, u.Scheme == "https", nil
	case "unix", "unixs":
		return "unix:" + u.Host + u.Path, u.Scheme == "unixs", nil
	}
	return "", false, fmt.Errorf("scheme %q is not one of http, https, unix and unixs", u.Scheme)
}

func (m *Member) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if m.cfg.CAFile != "" {
		bundle, err := os.ReadFile(m.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file in the agent's etcd section: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, fmt.Errorf("ca_file in the agent's etcd section: %s holds no PEM certificate", m.cfg.CAFile)
		}
	}
	if m.cfg.CertFile != "" || m.cfg.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(m.cfg.CertFile, m.cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file in the agent's etcd section: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
