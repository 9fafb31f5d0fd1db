//go:build faultinject

package serve

import (
	"encoding/json"
	"fmt"
	"maps"
	"text/tabwriter"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/internal/fault"
)

// FaultPoints returns the command that lists the fault points of this binary.
func FaultPoints() []*cobra.Command {
	c := &cobra.Command{
		Use:   "fault-points",
		Short: "List the points at which a test can make this binary fail",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			declareSteps()
			if c.Flag("output").Value.String() == string(output.JSON) {
				return json.NewEncoder(c.OutOrStdout()).Encode(fault.Points())
			}
			table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, p := range fault.Points() {
				fmt.Fprintf(table, "%s\t%s\n", p.Name, p.Meaning)
			}
			return table.Flush()
		},
	}
	return []*cobra.Command{c}
}

// declareSteps declares the points of every step of every plan, as a controller does.
func declareSteps() {
	builders := new(snapshot.Jobs).Builders()
	maps.Copy(builders, new(restore.Jobs).Builders())
	operation.NewEngine(nil, nil, 0, builders, hclog.NewNullLogger())
}
