package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/seal"
)

// sealingFlags say how the copies on the nodes are sealed.
type sealingFlags struct {
	level      int32
	recipients []string
	file       string
	plain      bool
}

func (f *sealingFlags) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.recipients, "encrypt-to", nil, "encrypt the copies on the nodes for the `RECIPIENTS` age1…, joined by commas (default: what the controller's configuration says)")
	flags.StringVar(&f.file, "recipients-file", "", "`FILE` with more recipients, one a line")
	flags.Int32Var(&f.level, "zstd-level", 0, "compress the copies on the nodes at the `LEVEL` 1 to 19 (default: what the controller's configuration says)")
	flags.BoolVar(&f.plain, "plain", false, "keep the copies on the nodes neither compressed nor encrypted, whatever the controller's configuration says")
}

// set puts what the flags say into a request.
func (f *sealingFlags) set(req *requorumv1.SaveSnapshotRequest) error {
	recipients := f.recipients
	if f.file != "" {
		data, err := os.ReadFile(f.file)
		if err != nil {
			return usagef("--recipients-file: %v", err)
		}
		more, err := seal.ParseRecipients(data)
		if err != nil {
			return usagef("--recipients-file: %s: %v", f.file, err)
		}
		recipients = append(recipients, more...)
	}
	if err := (seal.Options{Level: int(f.level), Recipients: recipients}).Check(); err != nil {
		return usagef("%v", err)
	}
	req.Plain = f.plain
	if f.level == 0 && len(recipients) == 0 {
		return nil
	}
	if f.plain {
		return usagef("--plain does not go together with --encrypt-to, --recipients-file and --zstd-level")
	}
	req.LocalSealing = &requorumv1.Sealing{ZstdLevel: f.level, Recipients: recipients}
	return nil
}

// sealedOnNodes tells for people how the copies on nodes are sealed and for whom; empty if they are not.
func sealedOnNodes(m *requorumv1.Manifest) string {
	l := m.GetLocal()
	if l == nil {
		return ""
	}
	text := fmt.Sprintf("%s: %s, SHA-256 %s", sealed(l), output.Bytes(l.GetSize()), l.GetSha256())
	if len(l.GetRecipients()) > 0 {
		text += "; for " + strings.Join(l.GetRecipients(), ", ")
	}
	return text
}

// sealedCell is the same for a table.
func sealedCell(m *requorumv1.Manifest) string {
	if m == nil {
		return ""
	}
	return sealed(m.GetLocal())
}
