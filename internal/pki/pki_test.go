package pki_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/pki"
)

func TestIdentityIsReadFromItsURI(t *testing.T) {
	for uri, want := range map[string]pki.Identity{
		"requorum://controller":             pki.ControllerIdentity(),
		"requorum://node/prod/etcd-1":       pki.NodeIdentity("prod", "etcd-1"),
		"requorum://operator/viewer/eve":    pki.OperatorIdentity(requorumv1.Role_ROLE_VIEWER, "eve"),
		"requorum://operator/operator/hook": pki.OperatorIdentity(requorumv1.Role_ROLE_OPERATOR, "hook"),
		"requorum://operator/admin/alice":   pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "alice"),
	} {
		got, err := pki.FromCertificate(withURIs(t, uri))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
		if got.URI().String() != uri {
			t.Errorf("%+v is written %s, not %s", got, got.URI(), uri)
		}
	}
}

func TestIdentityIsRefusedUnlessWrittenExactly(t *testing.T) {
	for _, uris := range [][]string{
		{},
		{"https://controller"},
		{"requorum://"},
		{"requorum://controller/"},
		{"requorum://controller:443"},
		{"requorum://controller?x=1"},
		{"requorum://root@controller"},
		{"requorum://node"},
		{"requorum://node/prod"},
		{"requorum://node/prod/"},
		{"requorum://node//etcd-1"},
		{"requorum://node/prod/../x"},
		{"requorum://node/prod/a%2fb"},
		{"requorum://node/prod/%65tcd-1"},
		{"requorum://node/prod/etcd-1/more"},
		{"requorum://operator/root/eve"},
		{"requorum://operator//eve"},
		{"requorum://operator/admin"},
		{"requorum://somebody/a/b"},
		{"requorum://controller", "requorum://node/prod/etcd-1"},
	} {
		if got, err := pki.FromCertificate(withURIs(t, uris...)); !errors.Is(err, pki.ErrNoIdentity) {
			t.Errorf("%q: %+v, %v", uris, got, err)
		}
	}
}

func TestFromContextWithoutACertificate(t *testing.T) {
	if _, _, err := pki.FromContext(context.Background()); !errors.Is(err, pki.ErrNoCertificate) {
		t.Fatal(err)
	}
}

func TestAuthorityIsMadeOnceAndLoadedAfterwards(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "pki")
	first := authority(t, dir)
	if again := authority(t, dir); again.Fingerprint() != first.Fingerprint() {
		t.Fatal("a second CA was made")
	}
	for name, mode := range map[string]fs.FileMode{"": 0o700, "ca.key": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q has mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestAuthorityAfterACrashBetweenKeyAndCertificate(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir)
	key := read(t, filepath.Join(dir, "ca.key"))
	remove(t, filepath.Join(dir, "ca.crt"))
	authority(t, dir)
	if string(read(t, filepath.Join(dir, "ca.key"))) != string(key) {
		t.Fatal("the key was replaced")
	}
}

func TestAuthorityIsNotReplacedWhenItsKeyIsGone(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir)
	remove(t, filepath.Join(dir, "ca.key"))
	if _, err := pki.LoadOrCreateAuthority(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("loaded without a key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ca.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("a new key was made")
	}
}

func TestLoadAuthorityRefusesWhatIsNotACA(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	ca := authority(t, dir)
	authority(t, other)
	if _, err := pki.LoadAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(other, "ca.key")); err == nil {
		t.Error("loaded with another CA's key")
	}
	certPEM, keyPEM := issue(t, ca, pki.ControllerIdentity(), time.Hour)
	write(t, filepath.Join(other, "leaf.crt"), certPEM)
	write(t, filepath.Join(other, "leaf.key"), keyPEM)
	if _, err := pki.LoadAuthority(filepath.Join(other, "leaf.crt"), filepath.Join(other, "leaf.key")); err == nil {
		t.Error("loaded a leaf as a CA")
	}
}

func TestIssuedCertificates(t *testing.T) {
	ca := authority(t, t.TempDir())
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, c := range []struct {
		id    pki.Identity
		usage []x509.ExtKeyUsage
	}{
		{pki.ControllerIdentity(), both},
		{pki.NodeIdentity("prod", "etcd-1"), both},
		{pki.OperatorIdentity(requorumv1.Role_ROLE_ADMIN, "alice"), both[:1]},
	} {
		certPEM, _ := issue(t, ca, c.id, time.Hour)
		cert := parse(t, certPEM)
		if got, err := pki.FromCertificate(cert); err != nil || got != c.id {
			t.Errorf("%s: carries %s, %v", c.id, got, err)
		}
		if fmt.Sprint(cert.ExtKeyUsage) != fmt.Sprint(c.usage) || cert.IsCA {
			t.Errorf("%s: usage %v, CA %v", c.id, cert.ExtKeyUsage, cert.IsCA)
		}
		if late := time.Since(cert.NotBefore); late < 24*time.Hour || late > 25*time.Hour {
			t.Errorf("%s: back-dated by %s", c.id, late)
		}
		if fmt.Sprint(cert.DNSNames, cert.IPAddresses) != "[ctl.example] [127.0.0.1 ::1]" {
			t.Errorf("%s: hosts %v %v", c.id, cert.DNSNames, cert.IPAddresses)
		}
	}
}

func TestKeyOfACertificateIsTheKeyItWasIssuedFor(t *testing.T) {
	ca := authority(t, t.TempDir())
	key := newKey(t)
	der, err := ca.Issue(key.Public(), pki.NodeIdentity("prod", "etcd-1"), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(der)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || pki.CertificateKey(cert) != pki.KeyFingerprint(key.Public()) {
		t.Errorf("%v", err)
	}
}

func TestIssueKeepsWithinItsLimits(t *testing.T) {
	ca := authority(t, t.TempDir())
	certPEM, _ := issue(t, ca, pki.ControllerIdentity(), 100*365*24*time.Hour)
	if end := parse(t, ca.CAPEM()).NotAfter; !parse(t, certPEM).NotAfter.Equal(end) {
		t.Errorf("the certificate outlives the CA")
	}
	key := newKey(t)
	for name, f := range map[string]func() ([]byte, error){
		"no life":  func() ([]byte, error) { return ca.Issue(key.Public(), pki.ControllerIdentity(), 0, nil) },
		"nobody":   func() ([]byte, error) { return ca.Issue(key.Public(), pki.Identity{}, time.Hour, nil) },
		"bad name": func() ([]byte, error) { return ca.Issue(key.Public(), pki.NodeIdentity("a/b", "c"), time.Hour, nil) },
		"no role":  func() ([]byte, error) { return ca.Issue(key.Public(), pki.OperatorIdentity(0, "eve"), time.Hour, nil) },
		"no key":   func() ([]byte, error) { return ca.Issue(nil, pki.ControllerIdentity(), time.Hour, nil) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

func TestDerivedSecretsDependOnCAAndLabel(t *testing.T) {
	dir := t.TempDir()
	derive := func(ca *pki.Authority, label string) string {
		secret, err := ca.Derive(label)
		if err != nil || len(secret) != 32 {
			t.Fatalf("%d bytes, %v", len(secret), err)
		}
		return string(secret)
	}
	first := derive(authority(t, dir), "a")
	if derive(authority(t, dir), "a") != first {
		t.Error("differs after loading")
	}
	if derive(authority(t, dir), "b") == first || derive(authority(t, t.TempDir()), "a") == first {
		t.Error("does not differ")
	}
}

func TestCertificateRequests(t *testing.T) {
	key := newKey(t)
	der, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := pki.PublicKeyFromCSR(der)
	if err != nil || pki.KeyFingerprint(pub) != pki.KeyFingerprint(key.Public()) {
		t.Fatalf("not the key that asked: %v", err)
	}
	forged := append([]byte{}, der...)
	forged[len(forged)-1] ^= 1
	for name, request := range map[string][]byte{"forged": forged, "empty": nil, "cut off": der[:len(der)-9], "huge": make([]byte, 1<<20)} {
		if _, err := pki.PublicKeyFromCSR(request); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{short, p224} {
		der, err := pki.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pki.PublicKeyFromCSR(der); !errors.Is(err, pki.ErrWeakKey) {
			t.Errorf("%T: %v", key, err)
		}
	}
}

func TestCredentialsAreLoadedAsSaved(t *testing.T) {
	ca, dir := authority(t, t.TempDir()), filepath.Join(t.TempDir(), "agent")
	id := pki.NodeIdentity("prod", "etcd-1")
	certPEM, keyPEM := issue(t, ca, id, time.Hour)
	if err := pki.SaveCredentials(dir, certPEM, keyPEM, ca.CAPEM()); err != nil {
		t.Fatal(err)
	}
	creds, err := pki.LoadBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	if creds.Identity() != id || !creds.Trusts(ca.Fingerprint()) || !creds.NotAfter().Equal(parse(t, certPEM).NotAfter) {
		t.Errorf("loaded %s until %s", creds.Identity(), creds.NotAfter())
	}
	if info, err := os.Stat(filepath.Join(dir, pki.BundleFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if due := time.Until(creds.RenewAfter()); due < 39*time.Minute || due > 41*time.Minute {
		t.Errorf("to be renewed in %s of an hour", due)
	}
}

func TestCredentialsThatDoNotFitAreRefused(t *testing.T) {
	ca, stranger, dir := authority(t, t.TempDir()), authority(t, t.TempDir()), t.TempDir()
	certPEM, keyPEM := issue(t, ca, pki.NodeIdentity("prod", "etcd-1"), time.Hour)
	_, otherKey := issue(t, ca, pki.NodeIdentity("prod", "etcd-1"), time.Hour)
	for name, parts := range map[string][3][]byte{
		"another key":      {certPEM, otherKey, ca.CAPEM()},
		"another CA":       {certPEM, keyPEM, stranger.CAPEM()},
		"no CA":            {certPEM, keyPEM, certPEM},
		"no key":           {certPEM, nil, ca.CAPEM()},
		"no certificate":   {keyPEM, keyPEM, ca.CAPEM()},
		"nobody's, a CA's": {ca.CAPEM(), keyPEM, ca.CAPEM()},
	} {
		if err := pki.SaveCredentials(dir, parts[0], parts[1], parts[2]); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
	if _, err := pki.LoadBundle(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestReplaceIsDurableAndAnnounced(t *testing.T) {
	ca, dir := authority(t, t.TempDir()), t.TempDir()
	id := pki.NodeIdentity("prod", "etcd-1")
	certPEM, keyPEM := issue(t, ca, id, time.Hour)
	if err := pki.SaveCredentials(dir, certPEM, keyPEM, ca.CAPEM()); err != nil {
		t.Fatal(err)
	}
	creds, err := pki.LoadBundle(dir)
	if err != nil {
		t.Fatal(err)
	}
	changed := creds.Changed()
	strangerCert, strangerKey := issue(t, ca, pki.NodeIdentity("prod", "etcd-2"), time.Hour)
	if err := creds.Replace(strangerCert, strangerKey, ca.CAPEM()); err == nil {
		t.Fatal("replaced by another node's")
	}
	select {
	case <-changed:
		t.Fatal("announced a change that was refused")
	default:
	}
	newCert, newKey := issue(t, ca, id, 2*time.Hour)
	if err := creds.Replace(newCert, newKey, ca.CAPEM()); err != nil {
		t.Fatal(err)
	}
	<-changed
	loaded, err := pki.LoadBundle(dir)
	if err != nil || !loaded.Certificate().Equal(parse(t, newCert)) || !creds.Certificate().Equal(parse(t, newCert)) {
		t.Fatalf("not the new certificate: %v", err)
	}
}

func TestReloadKeepsTheOldOnesWhenFilesDoNotFit(t *testing.T) {
	ca, dir := authority(t, t.TempDir()), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	certPEM, keyPEM := issue(t, ca, pki.ControllerIdentity(), time.Hour)
	write(t, path("tls.crt"), certPEM)
	write(t, path("tls.key"), keyPEM)
	write(t, path("ca.crt"), ca.CAPEM())
	creds, err := pki.LoadCredentials(path("tls.crt"), path("tls.key"), path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	newCert, newKey := issue(t, ca, pki.ControllerIdentity(), time.Hour)
	write(t, path("tls.crt"), newCert)
	if err := creds.Reload(); err == nil || !creds.Certificate().Equal(parse(t, certPEM)) {
		t.Fatalf("half of the new pair: %v", err)
	}
	write(t, path("tls.key"), newKey)
	if err := creds.Reload(); err != nil || !creds.Certificate().Equal(parse(t, newCert)) {
		t.Fatalf("the whole new pair: %v", err)
	}
}

func TestTokenIsReadAsWritten(t *testing.T) {
	token, err := pki.NewToken("prod", strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.ParseToken("  " + token.String() + "\n"); err != nil || got != token {
		t.Fatalf("%v, %v", got, err)
	}
	other, err := pki.NewToken("prod", strings.Repeat("0f", 32))
	if err != nil || other.Secret == token.Secret || other.ID == token.ID {
		t.Fatalf("two tokens are alike: %v", err)
	}
}

func TestWhatIsNotATokenIsExplainedWithoutRepeatingIt(t *testing.T) {
	token, err := pki.NewToken("prod", strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	text := token.String()
	for given, want := range map[string]string{
		"":                                       "empty",
		"hunter2hunter2":                         "begins with rq1:",
		"rq2" + text[3:]:                         "version",
		text[:30]:                                "cut off",
		text[:len(text)-1]:                       "end is cut off",
		text + ":x":                              "6 parts",
		strings.Replace(text, "prod", "../x", 1): "cluster name",
		strings.Replace(text, token.Secret, token.Secret[1:], 1):       "secret is cut off",
		strings.Replace(text, ":"+token.ID+":", ":"+token.ID+"00:", 1): "ID is cut off",
	} {
		_, err := pki.ParseToken(given)
		if !errors.Is(err, pki.ErrToken) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), token.Secret[2:])) {
			t.Errorf("the error gives away what was given: %v", err)
		}
	}
}

func TestTokenSecretStaysOutOfLogs(t *testing.T) {
	token, err := pki.NewToken("prod", strings.Repeat("0f", 32))
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(map[string]any{"token": token, "pointer": &token})
	if err != nil {
		t.Fatal(err)
	}
	holder := struct{ Token pki.Token }{token}
	for _, text := range []string{
		fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q %x %d", token, token, token, token, token, token, token),
		fmt.Sprintf("%v %+v %#v", &token, holder, holder), string(asJSON),
	} {
		if strings.Contains(text, token.Secret) || !strings.Contains(text, token.ID) {
			t.Errorf("written as %s", text)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add("rq1:prod:0011223344556677:" + strings.Repeat("A", 43) + ":" + strings.Repeat("0f", 32))
	f.Add("rq1:::::")
	f.Fuzz(func(t *testing.T, text string) {
		if token, err := pki.ParseToken(text); err == nil && token.String() != strings.TrimSpace(text) {
			t.Fatalf("%q is read as %q", text, token.String())
		}
	})
}

func authority(t *testing.T, dir string) *pki.Authority {
	t.Helper()
	ca, err := pki.LoadOrCreateAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t *testing.T, ca *pki.Authority, id pki.Identity, ttl time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	key := newKey(t)
	certPEM, err := ca.Issue(key.Public(), id, ttl, []string{"ctl.example", "127.0.0.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	if keyPEM, err = pki.KeyPEM(key); err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM
}

func credentialsOf(t *testing.T, ca *pki.Authority, id pki.Identity, ttl time.Duration) *pki.Credentials {
	t.Helper()
	certPEM, keyPEM := issue(t, ca, id, ttl)
	creds, err := pki.NewCredentials(certPEM, keyPEM, ca.CAPEM())
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func parse(t *testing.T, text []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func withURIs(t *testing.T, uris ...string) *x509.Certificate {
	t.Helper()
	cert := &x509.Certificate{}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		cert.URIs = append(cert.URIs, u)
	}
	return cert
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
