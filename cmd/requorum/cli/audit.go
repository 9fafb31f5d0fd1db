package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
)

// auditPage is how many entries are asked for at once.
const auditPage = 500

func (p *program) auditCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "audit",
		Short: "See who asked for what, and what came of it",
		Long: `See who asked for what, and what came of it: every call that changes something or
hands out secrets, and the end of every operation. Needs the role admin.`,
		Example: "  requorum audit ls --since 24h",
	}, p.auditLs())
}

func (p *program) auditLs() *cobra.Command {
	var (
		req   = &requorumv1.ListEntriesRequest{}
		since config.Duration
		limit int
	)
	command := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the audit log, newest first",
		Long: `List the audit log, newest first. In the table a call is one row, with its
outcome; -o json and -o yaml have every entry as it was written, requests included.`,
		Example: "  requorum audit ls --since 24h\n  requorum audit ls --by alice --cluster prod -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--limit cannot be negative")
			}
			if c.Flags().Changed("since") {
				req.Since = timestamppb.New(p.now().Add(-since.Std()))
			}
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				found, err := entries(ctx, c, req, limit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, found)
				}
				return p.writeAudit(found.GetEntries())
			})
		},
	}
	p.clusterFlag(command, &req.Cluster)
	flags := command.Flags()
	flags.Lookup("cluster").Usage = "list only what is about the cluster `NAME`"
	flags.StringVar(&req.By, "by", "", "list only what the operator or node `NAME` asked for")
	timeFlag(flags, &since, "since", "list only what is not older than this, as 24h")
	flags.IntVar(&limit, "limit", 0, "list at most so many entries (default: all)")
	return command
}

// entries returns the newest entries that are asked for, in one answer however many pages they take. 0 stands for all.
func entries(ctx context.Context, c *client, req *requorumv1.ListEntriesRequest, limit int) (*requorumv1.ListEntriesResponse, error) {
	found := &requorumv1.ListEntriesResponse{}
	for {
		req.PageSize = auditPage
		if limit > 0 {
			req.PageSize = int32(min(auditPage, limit-len(found.GetEntries())))
		}
		resp, err := ask(ctx, c.ListEntries, req, callLimit)
		if err != nil {
			return nil, err
		}
		found.Entries = append(found.Entries, resp.GetEntries()...)
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" || limit > 0 && len(found.GetEntries()) >= limit {
			return found, nil
		}
	}
}

// writeAudit shows a call and its outcome in one row.
func (p *program) writeAudit(entries []*requorumv1.AuditEntry) error {
	answers := make(map[string]*requorumv1.AuditEntry)
	called := make(map[string]bool)
	for _, e := range entries {
		switch e.GetEvent() {
		case requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED:
			answers[e.GetCall()] = e
		case requorumv1.AuditEvent_AUDIT_EVENT_CALLED:
			called[e.GetId()] = true
		}
	}
	table := output.NewTable("TIME", "BY", "FROM", "WHAT", "CLUSTER", "OPERATION", "OUTCOME")
	for _, e := range entries {
		if e.GetEvent() == requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED && called[e.GetCall()] {
			continue // in the row of the call
		}
		row := e
		if e.GetEvent() == requorumv1.AuditEvent_AUDIT_EVENT_CALLED && answers[e.GetId()] != nil {
			row = answers[e.GetId()]
		}
		table.Row(output.Time(e.GetTime()), e.GetBy(), e.GetPeer(), auditWhat(e), row.GetCluster(), row.GetOperationId(), auditOutcome(row))
	}
	_, err := table.WriteTo(p.out)
	return err
}

// auditWhat names what was asked for, or what has ended.
func auditWhat(e *requorumv1.AuditEntry) string {
	if e.GetEvent() == requorumv1.AuditEvent_AUDIT_EVENT_ENDED {
		return strings.TrimSpace("end of " + word(e.GetOperationKind().String(), "OPERATION_KIND_") + " " + e.GetSnapshot())
	}
	return e.GetMethod()[strings.LastIndex(e.GetMethod(), "/")+1:]
}

func auditOutcome(e *requorumv1.AuditEntry) string {
	outcome := e.GetCode()
	switch e.GetEvent() {
	case requorumv1.AuditEvent_AUDIT_EVENT_CALLED:
		return "no answer" // under way, or the controller died
	case requorumv1.AuditEvent_AUDIT_EVENT_ENDED:
		outcome = live.State(e.GetOperationState())
	}
	if e.GetMessage() != "" {
		outcome += ": " + output.Brief(e.GetMessage())
	}
	if e.GetIssued() != "" {
		outcome += ", certificate of " + e.GetIssued()
	}
	return outcome
}
