package access_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/internal/pki"
)

// from is the context of a call from an address.
func from(address string) context.Context {
	return peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1234}})
}

func TestGuessingTokensHasToWaitAndOthersDoNot(t *testing.T) {
	w := newWorld(t)
	token, key := w.token(""), newKey(t)
	enrol := func(address, secret string) error {
		_, _, err := w.Enroll(from(address), token.ID, secret, "etcd-1", csr(t, key))
		return err
	}
	tries := 0
	for ; tries < 1000; tries++ {
		if err := enrol("2001:db8::1", "wrong"); errors.Is(err, access.ErrTooMany) {
			break
		} else if !errors.Is(err, access.ErrTokenUnknown) {
			t.Fatal(err)
		}
	}
	if tries < 5 || tries == 1000 {
		t.Fatalf("%d guesses were heard", tries)
	}
	if err := enrol("2001:db8::2", token.Secret); !errors.Is(err, access.ErrTooMany) {
		t.Errorf("another address of the same network: %v", err)
	}
	if err := enrol("192.0.2.1", token.Secret); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	w.advance(20 * time.Minute)
	if err := enrol("2001:db8::1", token.Secret); err != nil {
		t.Errorf("after a while: %v", err)
	}
	if lines := strings.Count(w.log.String(), "enrolment refused"); lines == 0 || lines > tries {
		t.Errorf("%d lines in the log for %d refusals", lines, tries)
	}
	for _, secret := range []string{token.Secret, "wrong"} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log has the secret %q", secret)
		}
	}
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	s := startServer(t)
	conn := s.dial(s.credentials("viewer"))
	const calls = 300
	for range calls {
		if got := call(t, conn, "requorum.v1.ClusterService/RemoveNode"); got != codes.PermissionDenied {
			t.Fatal(got)
		}
	}
	s.advance(time.Hour)
	call(t, conn, "requorum.v1.ClusterService/RemoveNode")
	s.stop()
	log := s.log.String()
	if lines := strings.Count(log, "call refused"); lines < 10 || lines > calls/2 {
		t.Errorf("%d lines for %d refusals", lines, calls)
	}
	if !strings.Contains(log, "not_logged=") {
		t.Error("nothing says how many were left out")
	}
}

// raw connects without a certificate.
func (s *server) raw() (net.Conn, error) {
	config := pki.PinnedTLS(s.ca.Fingerprint())
	config.NextProtos = []string{"h2"}
	return tls.Dial("tcp", s.address, config)
}

func TestOneAddressGetsSoManyConnectionsWithoutACertificate(t *testing.T) {
	s := startServer(t)
	open := 0
	for range 300 {
		conn, err := s.raw()
		if err != nil {
			continue
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 9)); err == nil { // the server's settings
			open++
		}
	}
	if open < 10 || open > 100 {
		t.Errorf("%d of 300 connections without a certificate are served", open)
	}
	if got := verdict(call(t, s.dial(s.credentials("viewer")), "requorum.v1.ClusterService/ListClusters")); got != "let through" {
		t.Errorf("with a certificate: %s", got)
	}
	s.stop()
	if !strings.Contains(s.log.String(), "too many connections without a certificate") || !strings.Contains(s.log.String(), "peer=127.0.0.1:") {
		t.Errorf("the log does not say it: %s", s.log.String())
	}
}

// Who stole a certificate, which may be revoked by now, cannot keep out the one whose name is in it.
func TestConnectionsAreCountedByCertificate(t *testing.T) {
	s := startServer(t)
	stolen, again := s.credentials("viewer"), s.credentials("viewer")
	config := pki.ClientTLS(stolen, pki.ControllerIdentity())
	config.NextProtos = []string{"h2"}
	refused := false
	for tries := 0; tries < 300 && !refused; tries++ {
		conn, err := tls.Dial("tcp", s.address, config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 9)) // the server's settings
		refused = err != nil
	}
	if !refused {
		t.Error("one certificate gets any number of connections")
	}
	if got := verdict(call(t, s.dial(again), "requorum.v1.ClusterService/ListClusters")); got != "let through" {
		t.Errorf("with another certificate of the same name: %s", got)
	}
}

func TestHandshakesThatFailAreLogged(t *testing.T) {
	for what, c := range map[string]struct {
		says  string
		knock func(t *testing.T, s *server) error
	}{
		"HTTP": {"first record does not look like a TLS handshake", func(t *testing.T, s *server) error {
			conn, err := net.Dial("tcp", s.address)
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, conn) // until the server closes it
			return nil
		}},
		"TLS 1.2": {"client offered only unsupported versions", func(_ *testing.T, s *server) error {
			config := pki.PinnedTLS(s.ca.Fingerprint())
			config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			if conn, err := tls.Dial("tcp", s.address, config); err == nil {
				return conn.Close()
			}
			return nil
		}},
		"another CA": {"certificate signed by unknown authority", func(t *testing.T, s *server) error {
			other := startServer(t)
			config := pki.PinnedTLS(s.ca.Fingerprint())
			stranger := other.credentials("admin")
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return pki.ClientTLS(stranger, pki.ControllerIdentity()).GetClientCertificate(nil)
			}
			conn, err := tls.Dial("tcp", s.address, config)
			if err != nil {
				return nil //nolint:nilerr // refused, as it must be
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("it is served")
			}
			return nil
		}},
	} {
		t.Run(what, func(t *testing.T) {
			s := startServer(t)
			if err := c.knock(t, s); err != nil {
				t.Fatal(err)
			}
			s.stop()
			for _, want := range []string{"connection refused", c.says, "peer=127.0.0.1:"} {
				if !strings.Contains(s.log.String(), want) {
					t.Errorf("%q is not in the log: %s", want, s.log.String())
				}
			}
		})
	}
}

// A stranger's call is refused before its message is read, and one that it may make does not wait for a message for
// ever; how many there are is bounded.
func TestCallsWithoutACertificateAreBounded(t *testing.T) {
	s := startServer(t)
	conn := s.dial(nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	refused := make(chan codes.Code, 100)
	const calls = 40
	for range calls {
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/requorum.agent.v1.EnrollService/Enroll")
		if err != nil {
			t.Fatal(err)
		}
		go func() { refused <- status.Code(stream.RecvMsg(&emptypb.Empty{})) }()
	}
	for range calls - 16 { // the others wait for a message that does not come
		if code := <-refused; code != codes.ResourceExhausted {
			t.Errorf("%s", code)
		}
	}
	if got := verdict(call(t, s.dial(s.credentials("viewer")), "requorum.v1.ClusterService/ListClusters")); got != "let through" {
		t.Errorf("with a certificate: %s", got)
	}
	cancel()
	for range 16 {
		<-refused
	}
}
