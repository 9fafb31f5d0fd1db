package harness

import (
	"crypto/tls"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/internal/fault/faulttest"
)

// Elsewhere says where a cluster is whose processes run on hosts of their own.
type Elsewhere struct {
	Dir       string // holds controller/admin, as the controller wrote it
	Address   string // of the controller, host:port
	Nodes     []*dev.Node
	ClientTLS *tls.Config // with which the test talks to etcd
	Faults    faulttest.Dir
}

// Attach returns a cluster that this process has not started, for everything that only asks the controller and the members.
func Attach(t testing.TB, e Elsewhere) *Cluster {
	t.Helper()
	plain, _ := Binaries(t)
	c := &Cluster{
		Cluster: &dev.Cluster{Options: dev.Options{Dir: e.Dir, Name: Name}, Nodes: e.Nodes, Address: e.Address},
		Options: Options{ClientTLS: e.ClientTLS}, Faults: e.Faults, t: t, bin: plain, clients: map[string]*clientv3.Client{},
	}
	c.must(c.Connect())
	t.Cleanup(func() {
		c.DropClients()
		if err := c.Conn().Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
