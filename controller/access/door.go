package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/requorum/requorum/internal/pki"
)

// What one peer, and what all together, may take of the controller. A stranger is who shows no certificate of the
// CA; it needs one connection for one call, with which it enrols.
const (
	handshakesEach, handshakesAll = 2048, 8192 // under way
	strangersEach, strangersAll   = 64, 512    // connections of strangers, by address
	callsEach, callsAll           = 16, 64     // calls of strangers under way, by address
	connectionsEach               = 128        // connections with one certificate, or one node's key

	strangerLife  = 30 * time.Second // of a connection
	handshakeTime = 10 * time.Second // TLS and HTTP/2
	idleTime      = 2 * time.Minute  // of a connection without a call
	streamsEach   = 128              // calls under way on one connection
	headerBytes   = 32 << 10         // of a call's metadata
	messageBytes  = 4 << 20          // of a message; files come in parts
	windowBytes   = 1 << 20          // under way on a connection. Fixed: gRPC would look for a better one with each message.
	readBytes     = 8 << 10          // read at once; a thousand agents send little
)

// sources count what peers have under way.
type sources struct{ handshakes, strangers, calls, certificates limit }

func newSources() *sources {
	return &sources{
		handshakes:   limit{each: handshakesEach, all: handshakesAll},
		strangers:    limit{each: strangersEach, all: strangersAll},
		calls:        limit{each: callsEach, all: callsAll},
		certificates: limit{each: connectionsEach},
	}
}

// ServerOptions make a gRPC server let in whom it may, and bound what each of them can take of it.
func (a *Access) ServerOptions(creds *pki.Credentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(&door{TransportCredentials: credentials.NewTLS(pki.ServerTLS(creds)), access: a}),
		grpc.InTapHandle(a.tap),
		grpc.UnaryInterceptor(a.UnaryInterceptor),
		grpc.StreamInterceptor(a.StreamInterceptor),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: idleTime}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(streamsEach),
		grpc.MaxHeaderListSize(headerBytes),
		grpc.MaxRecvMsgSize(messageBytes),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
		grpc.ReadBufferSize(readBytes),
	}
}

// door is TLS that counts who comes.
type door struct {
	credentials.TransportCredentials
	access *Access
}

// Clone returns a door with the same counts.
func (d *door) Clone() credentials.TransportCredentials {
	return &door{TransportCredentials: d.TransportCredentials.Clone(), access: d.access}
}

// ServerHandshake lets a connection in unless its peer has too many.
func (d *door) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	from := source(raw.RemoteAddr())
	release, ok := d.access.sources.handshakes.take(from)
	if !ok {
		return nil, nil, d.refuse(raw, errors.New("too many connections are being made"))
	}
	defer release()
	conn, info, err := d.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, d.refuse(raw, err)
	}
	admitted, err := d.admit(conn, info, from)
	if err != nil {
		return nil, nil, errors.Join(d.refuse(raw, err), conn.Close())
	}
	return admitted, info, nil
}

// admit counts a connection until it is closed, by its certificate: by its name, whoever has a revoked one could keep
// out the holder of the new one. That of a stranger is closed when its time is over.
func (d *door) admit(conn net.Conn, info credentials.AuthInfo, from string) (net.Conn, error) {
	id, cert, err := pki.FromContext(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info}))
	if !errors.Is(err, pki.ErrNoCertificate) {
		release, ok := d.access.sources.certificates.take(certificateOf(id, cert))
		if !ok {
			return nil, fmt.Errorf("%s has %d connections already", id, connectionsEach)
		}
		return &counted{Conn: conn, release: release}, nil
	}
	release, ok := d.access.sources.strangers.take(from)
	if !ok {
		return nil, errors.New("too many connections without a certificate")
	}
	late := time.AfterFunc(strangerLife, func() { _ = conn.Close() }) // closed already is as good
	return &counted{Conn: conn, release: func() { late.Stop(); release() }}, nil
}

// refuse logs a connection that is refused. Peers that only look whether somebody listens are not worth a line.
func (d *door) refuse(raw net.Conn, err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: raw.RemoteAddr()})
	d.access.refused(ctx, "connection refused", "reason", err.Error())
	return err
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	once    sync.Once
	release func()
}

// Close closes the connection and counts it no more.
func (c *counted) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// tap refuses the calls of strangers before anything of their messages is read, and bounds those that they may make.
// Every other call is for the interceptors.
func (a *Access) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	id, _, err := pki.FromContext(ctx)
	if !errors.Is(err, pki.ErrNoCertificate) {
		return ctx, nil
	}
	if permissions[info.FullMethodName]&stranger == 0 {
		return nil, a.refuse(ctx, info.FullMethodName, id, codes.Unauthenticated, noCertificate)
	}
	release, ok := a.sources.calls.take(sourceOf(ctx))
	if !ok {
		a.refused(ctx, "call refused", "method", info.FullMethodName, "reason", "too many calls without a certificate")
		return nil, status.Error(codes.ResourceExhausted, "too many calls without a certificate; try again in a while")
	}
	ctx, cancel := context.WithTimeout(ctx, strangerLife)
	context.AfterFunc(ctx, func() { cancel(); release() })
	return ctx, nil
}

// refused logs a refusal, with where it comes from. A source that is refused again and again gets a line from time to
// time only, which says how many were left out.
func (a *Access) refused(ctx context.Context, what string, facts ...any) (logged bool) {
	missed, ok := a.lines.spend(sourceOf(ctx))
	if !ok {
		return false
	}
	from := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	facts = append(facts, "peer", from)
	if missed > 0 {
		facts = append(facts, "not_logged", missed)
	}
	a.log.Warn(what, facts...)
	return true
}
