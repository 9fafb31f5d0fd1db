package process

import (
	"context"

	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// version returns the version of the binary, empty if it does not tell.
func (r *Runtime) version(ctx context.Context) string {
	version, err := r.versions.Get(ctx, etcdconf.Binary{Path: r.o.Command[0], Env: r.o.Env, Credential: r.attributes().Credential})
	if err != nil {
		r.o.Log.Warn("etcd's binary does not tell its version", "binary", r.o.Command[0], "error", err)
	}
	return version
}
