package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// CA is a certificate authority whose files are in the test's temporary directory.
type CA struct {
	File string // its certificate, PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a certificate authority.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{key: newKey(t)}
	template := certificate("etcdtest CA")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.File = filepath.Join(t.TempDir(), "ca.crt")
	writePEM(t, ca.File, "CERTIFICATE", der)
	return ca
}

// Pool trusts the CA and nothing else.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Issue makes a certificate for 127.0.0.1 with the common name cn, good for servers and clients, and
// returns the paths of its PEM files.
func (ca *CA) Issue(t testing.TB, cn string) (certFile, keyFile string) {
	t.Helper()
	return ca.IssueFor(t, cn, "127.0.0.1", "localhost")
}

// IssueFor makes a certificate as Issue does, for these addresses and names and no others.
func (ca *CA) IssueFor(t testing.TB, cn string, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := certificate(cn)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", keyDER)
	return certFile, keyFile
}

// IssueChainFor makes a certificate as IssueFor does, with that of the CA after it in its file.
func (ca *CA) IssueChainFor(t testing.TB, cn string, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = ca.IssueFor(t, cn, hosts...)
	leaf, err := os.ReadFile(certFile)
	if err == nil {
		err = os.WriteFile(certFile, append(leaf, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// Thumbprint is what names the CA where a service pins one: the SHA-1 of its certificate in hexadecimal.
func (ca *CA) Thumbprint() string { return fmt.Sprintf("%x", sha1.Sum(ca.cert.Raw)) }

func (c *Cluster) issueCertificates() {
	c.t.Helper()
	c.CA = NewCA(c.t)
	c.CAFile = c.CA.File
	// Without a common name etcd cannot take the certificate for a user, so that Auth means passwords.
	c.CertFile, c.KeyFile = c.CA.Issue(c.t, "")
}

func (ca *CA) serverTLS(t testing.TB) transport.TLSInfo {
	certFile, keyFile := ca.Issue(t, "etcd")
	return transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: ca.File, ClientCertAuth: true}
}

func certificate(cn string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
