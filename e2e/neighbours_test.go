package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/pki"
)

// An agent gives a snapshot to no node of another cluster, to none that no task names, and to none that was removed,
// whose certificates are all good in time and of the CA.
func TestAgentsTellNeighboursApart(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(100)
	manifest := save(t, c, "held").GetManifest()
	member := certificates(t, c)["etcd-3"]
	c.Do("cluster", "remove-node", harness.Name, "etcd-3")
	holder := nodes(t, c)["etcd-1"].GetTransferAddress()
	for what, creds := range map[string]*pki.Credentials{
		"a node of another cluster":  join(t, c, "other", "etcd-2"),
		"a node that no task names":  join(t, c, harness.Name, "etcd-9"),
		"a node that was removed":    member,
		"an operator, even an admin": admin(t, c),
	} {
		if err := fetch(t, creds, holder, manifest); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	eventually(t, "the holder's log says whom it refused", func(context.Context) error {
		log, err := os.ReadFile(c.Process("etcd-1").Log())
		must(t, err)
		for _, word := range []string{"refused a node of another cluster", "cluster=other", "node=etcd-9", "node=etcd-3", "peer=127.0.0.1:"} {
			if !strings.Contains(string(log), word) {
				return fmt.Errorf("%q is not in it", word)
			}
		}
		return nil
	})
}

// join enrols a node that has no agent.
func join(t *testing.T, c *harness.Cluster, cluster, node string) *pki.Credentials {
	t.Helper()
	resp, err := requorumv1.NewAccessServiceClient(c.Conn()).CreateToken(t.Context(), &requorumv1.CreateTokenRequest{Cluster: cluster})
	must(t, err)
	creds, err := enroll.Ensure(t.Context(), enroll.Options{
		Dir: t.TempDir(), ControllerAddress: c.Address, Token: resp.GetToken(), Node: node, Log: hclog.NewNullLogger(),
	})
	must(t, err)
	return creds
}

func admin(t *testing.T, c *harness.Cluster) *pki.Credentials {
	t.Helper()
	dir := strings.TrimSuffix(c.AdminConfig(), "requorum.yaml")
	creds, err := pki.LoadCredentials(dir+"client.crt", dir+"client.key", dir+"ca.crt")
	must(t, err)
	return creds
}

// fetch asks etcd-1 for the whole of a snapshot and returns why it is not given.
func fetch(t *testing.T, creds *pki.Credentials, address string, m *requorumv1.Manifest) error {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.NodeIdentity(harness.Name, "etcd-1")))))
	must(t, err)
	defer conn.Close()
	stream, err := agentv1.NewTransferServiceClient(conn).Fetch(t.Context(), &agentv1.FetchRequest{Name: m.GetName(), Sha256: m.GetSha256(), Size: m.GetSize()})
	must(t, err)
	if _, err = stream.Recv(); err == nil {
		err = errors.New("it is given")
	}
	return err
}
