package cli

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this command",
		Long:    "Print the version of this command and of the Go that built it.",
		Example: "  requorum version\n  requorum version -o json",
		Args:    takes(),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version" yaml:"version"`
				Go      string `json:"go" yaml:"go"`
			}{p.version, runtime.Version()}
			switch p.settings.format {
			case output.JSON:
				encoder := json.NewEncoder(p.out)
				encoder.SetIndent("", "  ")
				return encoder.Encode(v)
			case output.YAML:
				return yaml.NewEncoder(p.out).Encode(v)
			}
			_, err := fmt.Fprintf(p.out, "requorum %s (%s)\n", v.Version, v.Go)
			return err
		},
	}
}
