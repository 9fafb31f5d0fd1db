package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

func (p *program) remoteCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "remote",
		Short: "Look at the object stores and at what is in them",
		Long: `Look at the object stores that the controller's configuration names, and at what
is in them. "snapshot save --remote" and "snapshot upload" store snapshots
there, "restore --from" and "snapshot import --from" take them from there.`,
		Example: "  requorum remote ls\n  requorum remote snapshots off-site",
	}, p.remoteLs(), p.remoteSnapshots())
}

func (p *program) remoteLs() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the remotes",
		Long:    "List the remotes of the controller's configuration.",
		Example: "  requorum remote ls\n  requorum remote ls -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListRemotes, &requorumv1.ListRemotesRequest{}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("NAME", "KIND", "WHERE", "FOLDER", "SEALED")
				for _, r := range resp.GetRemotes() {
					table.Row(r.GetName(), r.GetKind(), r.GetWhere(), r.GetFolder(), sealed(&requorumv1.StoredObject{ZstdLevel: r.GetZstdLevel(), Recipients: r.GetRecipients()}))
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
}

// sealed tells how a file is compressed and encrypted.
func sealed(o *requorumv1.StoredObject) string {
	var parts []string
	if o.GetZstdLevel() > 0 {
		parts = append(parts, fmt.Sprintf("zstd %d", o.GetZstdLevel()))
	}
	if n := len(o.GetRecipients()); n > 0 {
		parts = append(parts, fmt.Sprintf("age for %d", n))
	}
	if len(parts) == 0 {
		return "no"
	}
	return strings.Join(parts, ", ")
}

func (p *program) remoteSnapshots() *cobra.Command {
	var cluster, of string
	command := &cobra.Command{
		Use:   "snapshots REMOTE",
		Short: "List what a remote holds",
		Long: `List the snapshots of a cluster that a remote holds, newest first, whether the
catalog knows them or not. A node of the cluster looks. What no manifest
describes is listed, too; it is never removed by itself.`,
		Example:           "  requorum remote snapshots off-site\n  requorum remote snapshots off-site --cluster new --of prod",
		Args:              takes("REMOTE"),
		ValidArgsFunction: firstArgument(p.completeRemotes),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				cluster, err := c.clusterOr(ctx, cluster)
				if err != nil {
					return err
				}
				resp, err := ask(ctx, c.ListRemoteSnapshots, &requorumv1.ListRemoteSnapshotsRequest{Remote: args[0], Cluster: cluster, Of: of}, planLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				return p.writeRemoteSnapshots(resp)
			})
		},
	}
	p.clusterFlag(command, &cluster)
	command.Flags().StringVar(&of, "of", "", "list the snapshots of the cluster `NAME`, which need not be known here (default the same)")
	return command
}

func (p *program) writeRemoteSnapshots(resp *requorumv1.ListRemoteSnapshotsResponse) error {
	table := output.NewTable("NAME", "CLUSTER", "AGE", "SIZE", "STORED", "SEALED", "REVISION", "KIND")
	for _, m := range resp.GetManifests() {
		size, revision := p.manifestCells(m)
		table.Row(m.GetName(), m.GetCluster(), output.Ago(m.GetCreated(), p.now()), size, output.Bytes(m.GetStored().GetSize()), sealed(m.GetStored()), revision, snapshotKind(m.GetKind()))
	}
	if _, err := table.WriteTo(p.out); err != nil {
		return err
	}
	for _, key := range resp.GetOrphans() {
		if _, err := fmt.Fprintf(p.out, "no snapshot: %s has no manifest\n", output.Clean(key)); err != nil {
			return err
		}
	}
	for _, problem := range resp.GetProblems() {
		if _, err := fmt.Fprintf(p.out, "damaged: %s\n", output.Clean(problem)); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) snapshotUpload() *cobra.Command {
	var name string
	command := &cobra.Command{
		Use:   "upload NAME --remote REMOTE",
		Short: "Store a snapshot in a remote",
		Long: `Store a snapshot in a remote, from a node that holds a good copy. What is there
already is not sent again. NAME may be latest.`,
		Example:           "  requorum snapshot upload pre-1.31 --remote off-site",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSnapshots),
	}
	j := p.jobFlags(command)
	command.Flags().StringVar(&name, "remote", "", "the remote `NAME` that is to hold it (requorum remote ls)")
	complete(command, "remote", p.completeRemotes)
	required(command, "remote")
	command.RunE = func(c *cobra.Command, args []string) error {
		return p.starts(j, func(ctx context.Context, c *client, cluster string) (*requorumv1.Operation, error) {
			resp, err := change(ctx, c, c.UploadSnapshot, &requorumv1.UploadSnapshotRequest{RequestId: p.request(j.requestID), Cluster: cluster, Name: args[0], Remote: name})
			return resp.GetOperation(), err
		}, func(op *requorumv1.Operation) proto.Message { return &requorumv1.UploadSnapshotResponse{Operation: op} })(c, args)
	}
	return command
}

func fromFlag(flags *pflag.FlagSet, into *string) {
	flags.StringVar(into, "from", "", "take the snapshot from a remote: `REMOTE:NAME`, REMOTE:CLUSTER/NAME or s3://BUCKET/FOLDER/CLUSTER/NAME; NAME may be latest")
}

func identityFlag(flags *pflag.FlagSet, into *string) {
	flags.StringVar(into, "identity", "", "key `FILE` of age that opens encrypted copies; it is kept in memory only")
}

// maxIdentity bounds a key file.
const maxIdentity = 64 << 10

// readIdentity reads a key file; there is none if path is empty.
func readIdentity(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	data, err := os.ReadFile(path)
	switch {
	case err != nil:
		return "", usagef("--identity: %v", err)
	case len(data) > maxIdentity || !strings.Contains(string(data), "AGE-SECRET-KEY-"):
		return "", usagef("--identity: %s is not a key file of age; age-keygen makes one", path)
	}
	return string(data), nil
}
