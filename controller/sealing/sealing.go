// Package sealing is how the controller's configuration says that files are compressed and encrypted.
package sealing

import (
	"fmt"
	"os"
	"slices"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/seal"
)

// Config is a part of the configuration. The recipients of both keys count.
type Config struct {
	ZstdLevel      *int     `yaml:"zstd_level"`      // 1 to 19, 0 for no compression
	Recipients     []string `yaml:"recipients"`      // X25519 public keys of age to encrypt for
	RecipientsFile string   `yaml:"recipients_file"` // more of them, one a line
}

// Options returns how files are sealed; the file of recipients is read anew each time. level is that of zstd where the
// configuration gives none.
func (c Config) Options(level int) (seal.Options, error) {
	o := seal.Options{Level: level, Recipients: slices.Clone(c.Recipients)}
	if c.ZstdLevel != nil {
		o.Level = *c.ZstdLevel
	}
	if c.RecipientsFile != "" {
		data, err := os.ReadFile(c.RecipientsFile)
		if err != nil {
			return o, err
		}
		more, err := seal.ParseRecipients(data)
		if err != nil {
			return o, fmt.Errorf("%s: %w", c.RecipientsFile, err)
		}
		o.Recipients = append(o.Recipients, more...)
	}
	return o, o.Check()
}

// Local returns how copies on nodes are sealed where a request does not say it, nil for not at all.
func (c Config) Local() (*requorumv1.Sealing, error) {
	o, err := c.Options(0)
	if err != nil {
		return nil, fmt.Errorf("local_storage cannot be used: %w", err)
	}
	return Of(int32(o.Level), o.Recipients), nil
}

// Of returns a Sealing, nil for neither compression nor encryption.
func Of(level int32, recipients []string) *requorumv1.Sealing {
	if level == 0 && len(recipients) == 0 {
		return nil
	}
	return &requorumv1.Sealing{ZstdLevel: level, Recipients: recipients}
}

// Names lists recipients for people.
func Names(recipients []string) string { return strings.Join(recipients, ", ") }

// Same tells whether two lists name the same recipients.
func Same(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}
