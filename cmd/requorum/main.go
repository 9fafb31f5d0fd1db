// Command requorum backs up etcd clusters and brings them back.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"

	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/cmd/requorum/serve"
	"github.com/requorum/requorum/internal/version"
)

func main() {
	if filepath.Base(os.Args[0]) == "etcd" { // etcd's server is linked in for restoring; by this name it is run
		etcdmain.Main(os.Args)
		return
	}
	commands := append(serve.FaultPoints(), serve.Controller(), serve.Agent(), dev.Command())
	os.Exit(cli.Main(version.String(), commands...))
}
