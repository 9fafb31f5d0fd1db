// Command requorum backs up etcd clusters and brings them back.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/requorum/requorum/agent/olddata"
	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/cmd/requorum/serve"
	"github.com/requorum/requorum/internal/version"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "etcd": // etcd's server is linked in for restoring; by this name it is run
		etcdmain.Main(os.Args)
		return
	case olddata.Command:
		os.Exit(olddata.Main(os.Args, os.Stderr))
	}
	commands := append(serve.FaultPoints(), serve.Controller(), serve.Agent(), dev.Command())
	os.Exit(cli.Main(version.String(), commands...))
}
