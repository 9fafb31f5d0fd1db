package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// completionLimit is how long a person who pressed Tab waits for the controller.
const completionLimit = 2 * time.Second

// completer proposes values; each may be followed by a tab and a description.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete makes a flag's values proposed by f.
func complete(c *cobra.Command, flag string, f completer) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		mistaken(c, err)
	}
}

// oneOf marks two flags of which a command needs just one.
func oneOf(c *cobra.Command, flag, other string) {
	c.MarkFlagsOneRequired(flag, other)
	c.MarkFlagsMutuallyExclusive(flag, other)
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed(flag) == c.Flags().Changed(other) {
			return fmt.Errorf("--%s is missing, or --%s in its place; not both", flag, other)
		}
		return nil
	}
}

// required marks flags that a command cannot do without.
func required(c *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := c.MarkFlagRequired(flag); err != nil {
			mistaken(c, err)
		}
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		for _, flag := range flags {
			if !c.Flags().Changed(flag) {
				return fmt.Errorf("--%s is missing", flag)
			}
		}
		return nil
	}
}

// mistaken makes a command that names a flag it does not have fail whatever it is given, tests included.
func mistaken(c *cobra.Command, err error) {
	c.Args = func(*cobra.Command, []string) error { return err }
}

// firstArgument proposes values for the first argument only.
func firstArgument(f completer) completer {
	return func(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(c, args, begin)
	}
}

// propose asks the controller. Whatever goes wrong, nothing is proposed: an error has no place there.
func (p *program) propose(c *cobra.Command, find func(context.Context, *client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	var found []string
	quiet := *p
	quiet.err = io.Discard
	err := quiet.with(ctx, func(ctx context.Context, c *client) (err error) {
		found, err = find(ctx, c)
		return err
	})
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (p *program) completeClusters(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		resp, err := c.ListClusters(ctx, &requorumv1.ListClustersRequest{})
		var found []string
		for _, cluster := range resp.GetClusters() {
			found = append(found, fmt.Sprintf("%s\t%s nodes", cluster.GetName(), connected(cluster)))
		}
		return found, err
	})
}

func (p *program) completeSnapshots(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, cl *client) ([]string, error) {
		resp, err := cl.ListSnapshots(ctx, &requorumv1.ListSnapshotsRequest{Cluster: flagValue(c, "cluster")})
		var found []string
		for _, s := range resp.GetSnapshots() {
			size, _ := p.manifestCells(s.GetManifest())
			found = append(found, strings.TrimSpace(fmt.Sprintf("%s\t%s %s %s", s.GetName(), snapshotState(s.GetState()), size, output.Ago(s.GetCreated(), p.now()))))
		}
		return found, err
	})
}

func (p *program) completeSnapshotsAndLatest(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	found, directive := p.completeSnapshots(c, args, begin)
	return append(found, "latest\tthe newest that is ready"), directive
}

func (p *program) completeRemotes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		resp, err := c.ListRemotes(ctx, &requorumv1.ListRemotesRequest{})
		var found []string
		for _, r := range resp.GetRemotes() {
			found = append(found, r.GetName()+"\t"+r.GetWhere())
		}
		return found, err
	})
}

func (p *program) completeOperations(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		resp, err := c.ListOperations(ctx, &requorumv1.ListOperationsRequest{Limit: 20})
		var found []string
		for _, op := range resp.GetOperations() {
			found = append(found, fmt.Sprintf("%s\t%s, %s", op.GetId(), live.Title(op), live.State(op.GetState())))
		}
		return found, err
	})
}

func (p *program) completeCertificates(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		resp, err := c.ListOperatorCertificates(ctx, &requorumv1.ListOperatorCertificatesRequest{})
		var found []string
		for _, cert := range resp.GetCertificates() {
			found = append(found, cert.GetSerial()+"\t"+cert.GetName())
		}
		return found, err
	})
}

func (p *program) completeNodes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.nodesOf(c, flagValue(c, "cluster"))
}

// completeNodeList proposes the node that comes next in a list.
func (p *program) completeNodeList(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	found, directive := p.completeNodes(c, args, begin)
	given := begin[:strings.LastIndex(begin, ",")+1]
	for i := range found {
		found[i] = given + found[i]
	}
	return found, directive | cobra.ShellCompDirectiveNoSpace
}

func (p *program) completeClusterThenNode(c *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return p.completeClusters(c, args, begin)
	case 1:
		return p.nodesOf(c, args[0])
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (p *program) nodesOf(c *cobra.Command, cluster string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		name, err := c.clusterOr(ctx, cluster)
		if err != nil {
			return nil, err
		}
		resp, err := c.GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: name})
		var found []string
		for _, node := range resp.GetCluster().GetNodes() {
			found = append(found, node.GetName()+"\t"+p.agentOf(node))
		}
		return found, err
	})
}

func flagValue(c *cobra.Command, name string) string {
	if f := c.Flags().Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// addCompletion adds cobra's completion command with what every command here has.
func (p *program) addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd("completion")
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		parent(c)
		c.Example = "  source <(requorum completion bash)"
		for _, shell := range c.Commands() {
			shell.Example = fmt.Sprintf("  requorum completion %s > requorum.%s", shell.Name(), shell.Name())
		}
	}
	complete(root, "output", cobra.FixedCompletions([]string{"table\tfor people", "json\tfor programs", "yaml\tfor programs"}, cobra.ShellCompDirectiveNoFileComp))
	complete(root, "log-level", cobra.FixedCompletions([]string{"trace", "debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp))
}
