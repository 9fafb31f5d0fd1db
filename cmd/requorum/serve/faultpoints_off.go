//go:build !faultinject

package serve

import "github.com/spf13/cobra"

// FaultPoints returns nothing: this build has no fault points.
func FaultPoints() []*cobra.Command { return nil }
