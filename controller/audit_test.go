package controller

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/pki"
)

// as connects with a certificate that an admin had issued.
func as(t *testing.T, cfg Config, conn *grpc.ClientConn, address, name string, role requorumv1.Role) *grpc.ClientConn {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := requorumv1.NewAccessServiceClient(conn).IssueOperatorCertificate(t.Context(), &requorumv1.IssueOperatorCertificateRequest{Csr: csr, Name: name, Role: role})
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := pki.NewCredentials(issued.GetCertificate(), keyPEM, issued.GetCa())
	if err != nil {
		t.Fatal(err)
	}
	other, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	return other
}

func entries(t *testing.T, conn *grpc.ClientConn) []*requorumv1.AuditEntry {
	t.Helper()
	resp, err := requorumv1.NewAuditServiceClient(conn).ListEntries(t.Context(), &requorumv1.ListEntriesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetEntries()
}

func TestEveryChangeIsInTheAuditLog(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		viewer := as(t, cfg, conn, address, "vera", requorumv1.Role_ROLE_VIEWER)
		token, err := requorumv1.NewAccessServiceClient(conn).CreateToken(t.Context(), &requorumv1.CreateTokenRequest{Cluster: "prod", RequestId: "r-1"})
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := pki.ParseToken(token.GetToken())
		if err != nil {
			t.Fatal(err)
		}
		makeCalls(t, conn, viewer, parsed.ID)
		var told []string
		for _, e := range entries(t, conn) {
			told = append(told, strings.Join([]string{e.GetEvent().String()[len("AUDIT_EVENT_"):], e.GetBy(), e.GetMethod(), e.GetCode(), e.GetCluster(), e.GetIssued()}, "|"))
			if e.GetPeer() == "" || e.GetCertificate() == "" || e.GetTime() == nil {
				t.Errorf("%s lacks peer, certificate or time", e)
			}
		}
		const me = "operator admin (admin)"
		want := []string{
			"ANSWERED|" + me + "|requorum.v1.SnapshotService/ExportSnapshot|NotFound|nope|",
			"CALLED|" + me + "|requorum.v1.SnapshotService/ExportSnapshot||nope|",
			"ANSWERED|" + me + "|requorum.v1.SnapshotService/SaveSnapshot|NotFound|nope|",
			"CALLED|" + me + "|requorum.v1.SnapshotService/SaveSnapshot||nope|",
			"ANSWERED|operator vera (viewer)|requorum.agent.v1.EnrollService/Enroll|Unauthenticated||",
			"CALLED|operator vera (viewer)|requorum.agent.v1.EnrollService/Enroll|||",
			"DENIED|operator vera (viewer)|requorum.v1.SnapshotService/SaveSnapshot|PermissionDenied||",
			"ANSWERED|" + me + "|requorum.v1.AccessService/CreateToken|OK|prod|",
			"CALLED|" + me + "|requorum.v1.AccessService/CreateToken||prod|",
			"ANSWERED|" + me + "|requorum.v1.AccessService/IssueOperatorCertificate|OK||operator vera (viewer)",
			"CALLED|" + me + "|requorum.v1.AccessService/IssueOperatorCertificate|||",
		}
		if got := strings.Join(told, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("the audit log says\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		noSecrets(t, cfg, len(want), wrongSecret, token.GetToken(), parsed.Secret)
	})
}

const wrongSecret = "not it, but a secret"

// makeCalls makes calls that are refused in one way or the other.
func makeCalls(t *testing.T, admin, viewer *grpc.ClientConn, tokenID string) {
	t.Helper()
	calls := []struct {
		what string
		make func() error
		want codes.Code
	}{
		{"a viewer saves", func() error {
			_, err := requorumv1.NewSnapshotServiceClient(viewer).SaveSnapshot(t.Context(), &requorumv1.SaveSnapshotRequest{Cluster: "prod"})
			return err
		}, codes.PermissionDenied},
		{"a viewer reads the audit log", func() error {
			_, err := requorumv1.NewAuditServiceClient(viewer).ListEntries(t.Context(), &requorumv1.ListEntriesRequest{})
			return err
		}, codes.PermissionDenied},
		{"enrolling with a wrong secret", func() error {
			_, err := agentv1.NewEnrollServiceClient(viewer).Enroll(t.Context(), &agentv1.EnrollRequest{TokenId: tokenID, TokenSecret: wrongSecret, Node: "etcd-1"})
			return err
		}, codes.Unauthenticated},
		{"saving of an unknown cluster", func() error {
			_, err := requorumv1.NewSnapshotServiceClient(admin).SaveSnapshot(t.Context(), &requorumv1.SaveSnapshotRequest{Cluster: "nope"})
			return err
		}, codes.NotFound},
		{"exporting of an unknown cluster", func() error {
			export, err := requorumv1.NewSnapshotServiceClient(admin).ExportSnapshot(t.Context(), &requorumv1.ExportSnapshotRequest{Cluster: "nope", Name: "latest"})
			if err == nil {
				_, err = export.Recv()
			}
			return err
		}, codes.NotFound},
	}
	for _, c := range calls {
		if err := c.make(); status.Code(err) != c.want {
			t.Fatalf("%s: %v", c.what, err)
		}
	}
}

// noSecrets makes sure that the file has so many lines of JSON, and that neither it nor the store has any of the secrets.
func noSecrets(t *testing.T, cfg Config, entries int, secrets ...string) {
	t.Helper()
	lines := cfg.file(t, "audit.log")
	for _, secret := range secrets {
		if strings.Contains(lines, secret) || strings.Contains(cfg.file(t, "requorum.db"), secret) {
			t.Errorf("a secret is in the audit log:\n%s", lines)
		}
	}
	if n := strings.Count(lines, "\n"); n != entries {
		t.Errorf("%d lines in the file, %d entries", n, entries)
	}
	for line := range strings.Lines(lines) {
		var object map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil || object["id"] == nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Who guesses at tokens does not fill the log, and pushes nothing out of it.
func TestFailedEnrolmentsDoNotFillTheAuditLog(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		const guesses = 100
		refusals := map[codes.Code]int{}
		for range guesses {
			_, err := agentv1.NewEnrollServiceClient(conn).Enroll(t.Context(), &agentv1.EnrollRequest{TokenId: "guess", TokenSecret: "guess", Node: "etcd-1"})
			refusals[status.Code(err)]++
		}
		if n := len(entries(t, conn)); n < 20 || n > guesses || n != 2*refusals[codes.Unauthenticated] || refusals[codes.ResourceExhausted] < guesses/2 {
			t.Errorf("%d entries about %d guesses, which were refused as %v", n, guesses, refusals)
		}
	})
}

// A call that cannot be noted has no effect.
func TestNothingIsDoneThatCannotBeAudited(t *testing.T) {
	cfg := freshConfig(t)
	cfg.Audit.File = filepath.Join(t.TempDir(), "elsewhere.log")
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		access := requorumv1.NewAccessServiceClient(conn)
		ours := as(t, cfg, conn, address, "alice", requorumv1.Role_ROLE_VIEWER) // makes the file
		if err := errors.Join(os.Remove(cfg.Audit.File), os.Mkdir(cfg.Audit.File, 0o700)); err != nil {
			t.Fatal(err)
		}
		all, err := access.ListOperatorCertificates(t.Context(), &requorumv1.ListOperatorCertificatesRequest{})
		if err != nil || len(all.GetCertificates()) != 2 {
			t.Fatalf("looking needs no audit: %v, %v", all, err)
		}
		for _, c := range all.GetCertificates() {
			_, err := access.RevokeOperatorCertificate(t.Context(), &requorumv1.RevokeOperatorCertificateRequest{Serial: c.GetSerial()})
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was done") {
				t.Errorf("revoking: %v", err)
			}
		}
		if _, err := requorumv1.NewClusterServiceClient(ours).ListClusters(t.Context(), &requorumv1.ListClustersRequest{}); err != nil {
			t.Errorf("a certificate was revoked all the same: %v", err)
		}
		if err := os.Remove(cfg.Audit.File); err != nil {
			t.Fatal(err)
		}
		if _, err := access.RevokeOperatorCertificate(t.Context(), &requorumv1.RevokeOperatorCertificateRequest{Serial: "ab"}); err != nil {
			t.Errorf("once the file can be written again: %v", err)
		}
	})
}
