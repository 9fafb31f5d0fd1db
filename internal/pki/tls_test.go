package pki_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/pki"
)

var (
	admin = pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "alice")
	node1 = pki.NodeIdentity("prod", "etcd-1")
	node2 = pki.NodeIdentity("prod", "etcd-2")
)

func TestHandshakes(t *testing.T) {
	ca, stranger := authority(t, t.TempDir()), authority(t, t.TempDir())
	controller := credentialsOf(t, ca, pki.ControllerIdentity(), time.Hour)
	neighbour := credentialsOf(t, ca, node2, time.Hour)
	client := credentialsOf(t, ca, node1, time.Hour)
	impostor := credentialsOf(t, stranger, pki.ControllerIdentity(), time.Hour)
	outsider := credentialsOf(t, stranger, node1, time.Hour)
	toController := func(c *pki.Credentials) *tls.Config { return pki.ClientTLS(c, pki.ControllerIdentity()) }
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		fine           bool
	}{
		{"node to controller", pki.ServerTLS(controller), toController(client), true},
		{"operator to controller", pki.ServerTLS(controller), toController(credentialsOf(t, ca, admin, time.Hour)), true},
		{"node to node", pki.MutualTLS(neighbour), pki.ClientTLS(client, node2), true},
		{"pinned", pki.ServerTLS(controller), pki.PinnedTLS(ca.Fingerprint()), true},

		{"TLS 1.2 to a server", pki.ServerTLS(controller), tls12(toController(client)), false},
		{"TLS 1.2 to a node", pki.MutualTLS(neighbour), tls12(pki.ClientTLS(client, node2)), false},
		{"TLS 1.2 from a client", tls12(pki.ServerTLS(controller)), toController(client), false},
		{"TLS 1.2 while enrolling", tls12(pki.ServerTLS(controller)), pki.PinnedTLS(ca.Fingerprint()), false},
		{"client of another CA", pki.ServerTLS(controller), trusting(outsider, controller), false},
		{"server of another CA", pki.ServerTLS(impostor), toController(client), false},
		{"node poses as the controller", pki.ServerTLS(neighbour), toController(client), false},
		{"another node", pki.MutualTLS(neighbour), pki.ClientTLS(client, node1), false},
		{"same name in another cluster", pki.MutualTLS(neighbour), pki.ClientTLS(client, pki.NodeIdentity("dev", "etcd-2")), false},
		{"operator poses as a server", pki.ServerTLS(credentialsOf(t, ca, admin, time.Hour)), pki.ClientTLS(client, admin), false},
		{"nobody to the controller", pki.ServerTLS(controller), withoutCertificate(toController(client)), true},
		{"nobody to a node", pki.MutualTLS(neighbour), withoutCertificate(pki.ClientTLS(client, node2)), false},
		{"pinned to another CA", pki.ServerTLS(controller), pki.PinnedTLS(stranger.Fingerprint()), false},
		{"pinned to the leaf", pki.ServerTLS(controller), pki.PinnedTLS(pki.KeyFingerprint(controller.Certificate().PublicKey)), false},
		{"pinned, but a node", pki.ServerTLS(neighbour), pki.PinnedTLS(ca.Fingerprint()), false},
		{"pinned, CA shown but not of it", showing(t, impostor, ca), pki.PinnedTLS(ca.Fingerprint()), false},
		{"expired client", pki.ServerTLS(controller), toController(credentialsOf(t, ca, node1, 1)), false},
		{"expired server", pki.ServerTLS(credentialsOf(t, ca, pki.ControllerIdentity(), 1)), toController(client), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := handshake(t, c.server, c.client); (err == nil) != c.fine {
				t.Errorf("fine is %v: %v", c.fine, err)
			}
		})
	}
}

func TestHandshakeErrorsSayWhoIsThere(t *testing.T) {
	ca := authority(t, t.TempDir())
	server := pki.ServerTLS(credentialsOf(t, ca, node2, time.Hour))
	err := handshake(t, server, pki.ClientTLS(credentialsOf(t, ca, node1, time.Hour), pki.ControllerIdentity()))
	var wrong *pki.PeerError
	if !errors.As(err, &wrong) || wrong.Got != node2 || !strings.Contains(err.Error(), "node etcd-2 of cluster prod") {
		t.Errorf("%v", err)
	}
	if err := handshake(t, server, pki.PinnedTLS(strings.Repeat("0f", 32))); !errors.Is(err, pki.ErrPinned) {
		t.Errorf("%v", err)
	}
}

func TestReplacedCredentialsAreUsedByTheNextHandshake(t *testing.T) {
	old, renewed := authority(t, t.TempDir()), authority(t, t.TempDir())
	server := credentialsOf(t, old, pki.ControllerIdentity(), time.Hour)
	client := credentialsOf(t, old, node1, time.Hour)
	serverTLS, clientTLS := pki.ServerTLS(server), pki.ClientTLS(client, pki.ControllerIdentity())
	if err := handshake(t, serverTLS, clientTLS); err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := issue(t, renewed, pki.ControllerIdentity(), time.Hour)
	if err := server.Replace(certPEM, keyPEM, renewed.CAPEM()); err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, serverTLS, clientTLS); err == nil {
		t.Fatal("the server still uses its old certificate")
	}
	certPEM, keyPEM = issue(t, renewed, node1, time.Hour)
	if err := client.Replace(certPEM, keyPEM, renewed.CAPEM()); err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, serverTLS, clientTLS); err != nil {
		t.Fatal(err)
	}
}

// handshake connects both ends over loopback and moves a byte each way, since a TLS 1.3 client learns
// only then that the server refused it. It returns the client's error, or else the server's.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			err = echoByte(tls.Server(conn, server))
		}
		served <- err
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	config := client.Clone()
	config.ServerName = "moved.example" // as gRPC sets it; no certificate has it
	err = sendByte(tls.Client(conn, config))
	if serverErr := <-served; err == nil {
		err = serverErr
	}
	return err
}

func sendByte(conn *tls.Conn) error {
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func echoByte(conn *tls.Conn) error {
	defer func() { _ = conn.Close() }()
	buffer := make([]byte, 1)
	if _, err := io.ReadFull(conn, buffer); err != nil {
		return err
	}
	_, err := conn.Write(buffer)
	return err
}

// tls12 takes the configuration's own minimum away from one end, the other has to insist.
func tls12(config *tls.Config) *tls.Config {
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if present := config.GetConfigForClient; present != nil {
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := present(hello)
			if err == nil {
				c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			}
			return c, err
		}
	}
	return config
}

// trusting is a client with credentials of one CA that trusts a server of another.
func trusting(own, server *pki.Credentials) *tls.Config {
	config := pki.ClientTLS(own, pki.ControllerIdentity())
	config.VerifyConnection = pki.ClientTLS(server, pki.ControllerIdentity()).VerifyConnection
	return config
}

// showing is a server with a certificate of its own CA that shows another CA's certificate.
func showing(t *testing.T, own *pki.Credentials, ca *pki.Authority) *tls.Config {
	t.Helper()
	config := pki.ServerTLS(own)
	base, err := config.GetConfigForClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := base.Certificates[0]
	shown.Certificate = append(shown.Certificate[:1:1], caDER(ca))
	base.Certificates = []tls.Certificate{shown}
	return base
}

func caDER(ca *pki.Authority) []byte {
	block, _ := pem.Decode(ca.CAPEM())
	return block.Bytes
}

func withoutCertificate(config *tls.Config) *tls.Config {
	config.GetClientCertificate = nil
	return config
}
