package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

func (p *program) clusterCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "cluster",
		Short:   "Show clusters and their nodes",
		Long:    "Show what the controller knows of etcd clusters and their nodes.",
		Example: "  requorum cluster ls\n  requorum cluster status prod",
	}, p.clusterLs(), p.clusterStatus(), p.clusterRemoveNode())
}

func (p *program) clusterLs() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List clusters",
		Long:    "List every cluster that has an enrolled node.",
		Example: "  requorum cluster ls\n  requorum cluster ls -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListClusters, &requorumv1.ListClustersRequest{}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("NAME", "NODES", "HEALTH", "LATEST SNAPSHOT", "RUNNING")
				for _, cluster := range resp.GetClusters() {
					table.Row(cluster.GetName(), connected(cluster), health(cluster), p.latest(cluster), cluster.GetRunningOperation())
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
}

func connected(cluster *requorumv1.Cluster) string {
	n := 0
	for _, node := range cluster.GetNodes() {
		if node.GetConnected() {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(cluster.GetNodes()))
}

func health(cluster *requorumv1.Cluster) string {
	switch n := len(cluster.GetProblems()); n {
	case 0:
		return "good"
	case 1:
		return "1 problem"
	default:
		return fmt.Sprintf("%d problems", n)
	}
}

func (p *program) latest(cluster *requorumv1.Cluster) string {
	if cluster.GetLatestSnapshot() == "" {
		return "none"
	}
	return fmt.Sprintf("%s (%s)", cluster.GetLatestSnapshot(), output.Ago(cluster.GetLatestSnapshotTime(), p.now()))
}

func (p *program) clusterStatus() *cobra.Command {
	var cached bool
	var cluster string
	command := &cobra.Command{
		Use:               "status [NAME]",
		Short:             "Show a cluster's nodes and members as they are now",
		Long:              "Ask every node of a cluster how its etcd member is. NAME may be left out if the\ncontroller knows one cluster only.",
		Example:           "  requorum cluster status prod\n  requorum cluster status prod -o yaml",
		Args:              mayTake(),
		ValidArgsFunction: firstArgument(p.completeClusters),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && cluster != "" {
				return usagef("NAME and --cluster are both given; one is enough")
			}
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				name, err := c.clusterOr(ctx, cluster+strings.Join(args, ""))
				if err != nil {
					return err
				}
				resp, err := ask(ctx, c.GetCluster, &requorumv1.GetClusterRequest{Cluster: name, Refresh: !cached}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				return p.writeCluster(resp.GetCluster())
			})
		},
	}
	p.clusterFlag(command, &cluster)
	command.Flags().BoolVar(&cached, "cached", false, "show what the last heartbeats told instead of asking the nodes")
	return command
}

func (p *program) writeCluster(cluster *requorumv1.Cluster) error {
	fields := output.NewFields()
	fields.Add("Cluster", "%s", cluster.GetName())
	fields.Add("Nodes", "%s connected", connected(cluster))
	fields.Add("Generation", "%d", cluster.GetGeneration())
	fields.Add("Latest snapshot", "%s", p.latest(cluster))
	fields.Add("Running", "%s", cluster.GetRunningOperation())
	if _, err := fields.WriteTo(p.out); err != nil {
		return err
	}
	for _, problem := range cluster.GetProblems() {
		if _, err := fmt.Fprintf(p.out, "  ! %s\n", output.Clean(problem)); err != nil {
			return err
		}
	}
	table := output.NewTable("NODE", "AGENT", "MEMBER", "REVISION", "DB", "ETCD", "RUNTIME", "FREE", "NOTES")
	for _, node := range cluster.GetNodes() {
		m := node.GetMember()
		revision, size, free := "", "", ""
		if known(node) {
			free = output.Bytes(int64(node.GetDataFreeBytes()))
		}
		if known(node) && m.GetServing() {
			revision, size = p.number(m.GetRevision()), output.Bytes(m.GetDbSize())
		}
		table.Row(node.GetName(), p.agentOf(node), memberRole(node), revision, size, m.GetVersion(), node.GetRuntime(), free, notes(node))
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	_, err := table.WriteTo(p.out)
	return err
}

func (p *program) agentOf(node *requorumv1.Node) string {
	if node.GetConnected() {
		return "connected"
	}
	if seen := output.Ago(node.GetLastSeen(), p.now()); seen != "" {
		return "seen " + seen
	}
	return "never seen"
}

// known tells whether what is told of the node and its member is of now.
func known(node *requorumv1.Node) bool { return node.GetConnected() && node.GetMember() != nil }

func memberRole(node *requorumv1.Node) string {
	m := node.GetMember()
	switch {
	case !known(node):
		return "unknown"
	case !m.GetServing():
		return "down"
	case m.GetLearner():
		return "learner"
	case m.GetLeader() == "":
		return "no leader"
	case m.GetLeader() == m.GetId():
		return "leader"
	}
	return "follower"
}

func notes(node *requorumv1.Node) string {
	var notes []string
	if node.GetFenced() {
		notes = append(notes, "fenced")
	}
	if node.GetProblem() != "" {
		notes = append(notes, node.GetProblem())
	}
	for _, alarm := range node.GetMember().GetAlarms() {
		if alarm.GetMemberId() == node.GetMember().GetId() {
			notes = append(notes, "alarm "+alarm.GetType())
		}
	}
	if problem := node.GetMember().GetError(); problem != "" && problem != node.GetProblem() {
		notes = append(notes, problem)
	}
	return strings.Join(notes, "; ")
}

func (p *program) clusterRemoveNode() *cobra.Command {
	var requestID string
	command := &cobra.Command{
		Use:               "remove-node CLUSTER NODE",
		Short:             "Forget a node and revoke its certificates",
		Long:              "Forget a node and revoke its certificates. Its etcd member is not touched.\nNeeds the role admin.",
		Example:           "  requorum cluster remove-node prod etcd-3",
		Args:              takes("CLUSTER", "NODE"),
		ValidArgsFunction: p.completeClusterThenNode,
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := change(ctx, c, c.RemoveNode, &requorumv1.RemoveNodeRequest{RequestId: p.request(requestID), Cluster: args[0], Node: args[1]})
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				_, err = fmt.Fprintf(p.out, "Node %s of %s is forgotten; its etcd member was not touched\n", args[1], args[0])
				return err
			})
		},
	}
	p.requestIDFlag(command, &requestID)
	return command
}
