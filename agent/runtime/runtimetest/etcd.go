package runtimetest

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/requorum/requorum/agent/runtime"
)

// asEtcd is set in the environment of a test binary that stands for etcd.
const asEtcd = "REQUORUM_TEST_ETCD"

// Main turns the process into etcd if it was started as such. A package that uses EtcdCommand calls it
// first thing in its TestMain.
func Main() {
	if os.Getenv(asEtcd) == "1" {
		etcdmain.Main(os.Args)
	}
}

// Etcd is a real etcd of one member that a driver under test runs: the test binary itself.
type Etcd struct {
	Command []string       // binary and arguments
	Env     []string       // whole environment
	Member  runtime.Member // what Command configures
}

// NewEtcd chooses free ports and a directory for a member. It starts nothing.
func NewEtcd(t *testing.T) Etcd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, urls := filepath.Join(t.TempDir(), "etcd"), freeURLs(t, 2)
	client, peer := urls[0], urls[1]
	return Etcd{
		Command: []string{
			self, "--name=m1", "--data-dir=" + dir,
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=m1=" + peer, "--initial-cluster-token=old",
			"--heartbeat-interval=50", "--election-timeout=500",
		},
		Env: []string{asEtcd + "=1"},
		Member: runtime.Member{
			Name: "m1", DataDir: dir, UID: os.Geteuid(), GID: os.Getegid(),
			ListenClientURLs: []string{client}, AdvertiseClientURLs: []string{client},
			ListenPeerURLs: []string{peer}, AdvertisePeerURLs: []string{peer},
		},
	}
}

// freeURLs returns URLs of 127.0.0.1 with ports on which nothing listens.
func freeURLs(t *testing.T, n int) []string {
	t.Helper()
	urls := make([]string, n)
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { // only once all are chosen, so that they differ
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}()
		urls[i] = "http://127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	}
	return urls
}
