package detect

import (
	"errors"
	"fmt"
	"os"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
)

// Missing returns what keeps an agent from being in charge of a member, whatever runs it: a sentence each, with what to
// do.
func Missing(m runtime.Member) []string {
	missing := MissingForData(m)
	if m.Version == "" {
		missing = append(missing, "etcd's binary is not there or does not tell its version; install etcd")
	}
	return missing
}

// MissingForData is Missing where a member need not tell its version while it does not serve.
func MissingForData(m runtime.Member) []string {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "the agent does not run as root; run it as root")
	}
	var layout *datadir.LayoutError
	if _, err := datadir.Open(m, "DETECT"); errors.As(err, &layout) {
		missing = append(missing, layout.Error())
	} else if err != nil {
		missing = append(missing, fmt.Sprintf("the data directory cannot be looked at: %v", err))
	}
	for _, f := range []struct{ setting, path string }{
		{"trusted-ca-file", m.TrustedCAFile}, {"cert-file", m.CertFile}, {"key-file", m.KeyFile},
	} {
		if f.path == "" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			missing = append(missing, fmt.Sprintf("etcd's %s cannot be read: %v; put it there or correct etcd's configuration", f.setting, err))
		}
	}
	return missing
}
