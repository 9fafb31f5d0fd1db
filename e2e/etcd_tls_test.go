package e2e

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/etcdtest"
)

// etcd as it is secured at its worst: its client port listens on the node's own address only and wants a certificate,
// authentication is on with a password, and its CA is replaced while agents run. Snapshots and a restore go on all along.
func TestSecuredEtcdWhoseCAIsReplaced(t *testing.T) {
	t.Parallel()
	old, fresh := etcdtest.NewCA(t), etcdtest.NewCA(t)
	hosts := []string{"127.0.0.1", "127.0.1.1", "127.0.1.2", "127.0.1.3"}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	copyTo := func(to string, from ...string) {
		t.Helper()
		var all []byte
		for _, f := range from {
			data, err := os.ReadFile(f)
			must(t, err)
			all = append(all, data...)
		}
		must(t, os.WriteFile(to, all, 0o600))
	}
	// Without a common name etcd takes no certificate for a user, so that the password decides.
	show := func(ca *etcdtest.CA) {
		t.Helper()
		cert, key := ca.IssueFor(t, "", hosts...)
		copyTo(file("tls.crt"), cert)
		copyTo(file("tls.key"), key)
	}
	copyTo(file("ca.crt"), old.File)
	show(old)
	must(t, os.WriteFile(file("password"), []byte("secret\n"), 0o600))

	pool := old.Pool()
	fromFresh, err := os.ReadFile(fresh.File)
	must(t, err)
	pool.AppendCertsFromPEM(fromFresh)
	talk := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(file("tls.crt"), file("tls.key"))
			return &pair, err
		},
	}
	c := harness.Start(t, harness.Options{HTTPS: true, ClientTLS: talk, Configure: func(node string, a *agent.Config) {
		p := a.Runtime.Process
		for i, arg := range p.Command {
			if strings.Contains(arg, "-client-urls=") {
				p.Command[i] = strings.ReplaceAll(strings.Replace(arg, "http://", "https://", 1), "127.0.0.1", ownAddress(node))
			}
		}
		p.Command = append(p.Command, "--cert-file="+file("tls.crt"), "--key-file="+file("tls.key"), "--trusted-ca-file="+file("ca.crt"), "--client-cert-auth")
		a.Etcd.CA, a.Etcd.Cert, a.Etcd.Key = file("ca.crt"), file("tls.crt"), file("tls.key")
		a.Etcd.Username, a.Etcd.PasswordFile = "root", file("password")
	}})
	for _, n := range c.Nodes {
		n.ClientURL = strings.Replace(n.ClientURL, "127.0.0.1", ownAddress(n.Name), 1)
	}
	c.Write(100)
	enableAuth(t, c)
	save(t, c, "under-the-old")
	saved := c.Now()
	c.Write(50)

	copyTo(file("ca.crt"), old.File, fresh.File)
	restore(t, c, "under-the-old") // starts etcd, which then trusts both
	c.DropClients()
	holds(t, c, saved)
	show(fresh)
	c.DropClients()
	save(t, c, "under-both")

	copyTo(file("ca.crt"), fresh.File)
	restore(t, c, "under-both")
	c.DropClients()
	holds(t, c, saved)
	c.Do("snapshot", "check", save(t, c, "under-the-new").GetName())
	nothingLeft(t, c)
}

// ownAddress is the address of a node that no other one has, loopback though it is.
func ownAddress(node string) string {
	return fmt.Sprintf("127.0.1.%s", strings.TrimPrefix(node, "etcd-"))
}
