// Command requorum backs up etcd clusters and brings them back.
package main

import (
	"os"

	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/internal/version"
)

func main() {
	os.Exit(cli.Main(version.String()))
}
