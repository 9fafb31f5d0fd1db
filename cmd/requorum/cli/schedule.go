package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/timetable"
)

const scheduleLong = `Take snapshots unattended, and remove them when their time is over.

A schedule is a YAML document; docs/schedules.md has every field:

  name: nightly
  cluster: prod
  cron: "30 2 * * *"          # or every: 12h
  timezone: Europe/Berlin
  localStorage:
    daily: 7
    weekly: 4
    ttl: 60d`

func (p *program) scheduleCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:     "schedule",
		Short:   "Take and remove snapshots unattended",
		Long:    scheduleLong,
		Example: "  requorum schedule apply -f nightly.yaml\n  requorum schedule ls",
	}, p.scheduleApply(), p.scheduleGet(), p.scheduleLs(), p.scheduleHistory(), p.schedulePause(), p.scheduleResume(),
		p.scheduleTrigger(), p.scheduleRm())
}

func (p *program) scheduleApply() *cobra.Command {
	var file, requestID string
	command := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make schedules what a file says",
		Long: `Make schedules what a file says, whether they were there or not. The file holds
one YAML document for each. All of them are checked before the first one is
applied. Schedules that the file does not name stay. Needs the role admin, as
retention removes snapshots.`,
		Example: "  requorum schedule apply -f nightly.yaml\n  requorum schedule get nightly -o yaml | requorum schedule apply -f -",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			wanted, err := readPolicies(file, p.in)
			if err != nil {
				return err
			}
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				for i, s := range wanted {
					id := p.request(requestID)
					if i > 0 && requestID != "" {
						id = fmt.Sprintf("%s-%d", requestID, i)
					}
					resp, err := change(ctx, c, c.ApplySchedule, &requorumv1.ApplyScheduleRequest{RequestId: id, Schedule: s})
					if err != nil {
						return err
					}
					if err := p.writeApplied(resp); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	command.Flags().StringVarP(&file, "file", "f", "", "`FILE` with the schedules, YAML; - for stdin")
	required(command, "file")
	p.requestIDFlag(command, &requestID)
	return command
}

func (p *program) writeApplied(resp *requorumv1.ApplyScheduleResponse) error {
	if p.settings.format != output.Table {
		return output.StreamMessage(p.out, p.settings.format, resp)
	}
	s := resp.GetSchedule()
	line := fmt.Sprintf("schedule %s of %s: %s", s.GetName(), s.GetCluster(), word(resp.GetOutcome().String(), "APPLY_OUTCOME_"))
	if next := s.GetStatus().GetNext(); next != nil {
		line += ", next run " + output.Time(next)
	}
	if s.GetPaused() {
		line += ", paused"
	}
	_, err := fmt.Fprintln(p.out, output.Clean(line))
	if s.GetLocalStorage() == nil {
		p.hint("nothing removes its snapshots: say how long they are kept, as localStorage: {last: 5}")
	}
	return err
}

func (p *program) scheduleGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME",
		Short: "Show a schedule as the document that can be applied",
		Long: `Show a schedule as the document that can be applied, with its status: when the
next run is due, and the latest runs. What status says is ignored when it is
applied. With -o json it is the same document as JSON.`,
		Example:           "  requorum schedule get nightly\n  requorum schedule get nightly -o yaml > nightly.yaml",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSchedules),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.GetSchedule, &requorumv1.GetScheduleRequest{Name: args[0]}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format == output.Table {
					return p.writeSchedule(resp.GetSchedule())
				}
				return p.writeDocument(document(resp.GetSchedule()))
			})
		},
	}
}

// writeDocument writes a schedule's document as YAML, or as JSON, which is YAML too.
func (p *program) writeDocument(doc *policy) error {
	if p.settings.format == output.YAML {
		encoder := yaml.NewEncoder(p.out)
		encoder.SetIndent(2)
		if err := encoder.Encode(doc); err != nil {
			return err
		}
		return encoder.Close()
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	var fields map[string]any
	if err := yaml.Unmarshal(text, &fields); err != nil {
		return err
	}
	encoder := json.NewEncoder(p.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(fields)
}

func (p *program) writeSchedule(s *requorumv1.Schedule) error {
	fields := output.NewFields()
	fields.Add("Schedule", "%s", s.GetName())
	fields.Add("Cluster", "%s", s.GetCluster())
	fields.Add("When", "%s", whenOf(s))
	if s.GetStagger() != nil {
		fields.Add("Stagger", "%s", lifetime(s.GetStagger()))
	}
	if s.GetPaused() {
		fields.Add("Paused", "yes: it neither takes nor removes snapshots")
	}
	fields.Add("Next run", "%s", output.Time(s.GetStatus().GetNext()))
	count := copyCount(s.GetCopies())
	fields.Add("Copies", "%s", count.String())
	fields.Add("Keeps", "%s", keepsOf(s.GetLocalStorage()))
	if l := s.GetLocalSealing(); l != nil {
		fields.Add("Seals", "%s", sealed(&requorumv1.StoredObject{ZstdLevel: l.GetZstdLevel(), Recipients: l.GetRecipients()}))
	}
	fields.Add("Retries", "%s", retriesOf(s))
	fields.Add("Drills", "%s", drillsOf(s.GetDrill()))
	if d := s.GetStatus().GetDrill(); d != nil {
		fields.Add("Last drill", "%s, due %s", drillOf(d), output.Time(d.GetDue()))
	}
	fields.Add("Labels", "%s", labelList(s.GetLabels()))
	fields.Add("Files", "%s", strings.Join(s.GetFiles(), ", "))
	if s.GetAllowDegraded() {
		fields.Add("Degraded", "saves although nodes are offline")
	}
	fields.Add("Applied", "%s by %s", output.Time(s.GetStatus().GetApplied()), s.GetStatus().GetAppliedBy())
	if _, err := fields.WriteTo(p.out); err != nil || len(s.GetStatus().GetRecords()) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(p.out); err != nil {
		return err
	}
	_, err := runTable(s.GetStatus().GetRecords(), false).WriteTo(p.out)
	return err
}

func whenOf(s *requorumv1.Schedule) string {
	if s.GetCron() == "" {
		return "every " + lifetime(s.GetEvery()).String()
	}
	zone := s.GetTimezone()
	if zone == "" {
		zone = "UTC"
	}
	return s.GetCron() + " " + zone
}

func keepsOf(r *requorumv1.Retention) string {
	var parts []string
	for _, part := range []struct {
		name string
		n    uint32
	}{{"last", r.GetLast()}, {"hourly", r.GetHourly()}, {"daily", r.GetDaily()}, {"weekly", r.GetWeekly()}, {"monthly", r.GetMonthly()}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", part.name, part.n))
		}
	}
	if r.GetTtl() != nil {
		parts = append(parts, "ttl "+lifetime(r.GetTtl()).String())
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}

func retriesOf(s *requorumv1.Schedule) string {
	limit, after := timetable.Retries(s)
	if limit == 0 {
		return "none"
	}
	return fmt.Sprintf("at most %d, the first one %s after a run has failed", limit, config.Lifetime(after))
}

func drillsOf(d *requorumv1.Drill) string {
	switch {
	case d == nil:
		return ""
	case d.GetEvery() != nil:
		return "after a run, once " + lifetime(d.GetEvery()).String() + " have passed"
	case d.GetAfter() == 1:
		return "after each run"
	}
	return fmt.Sprintf("after every %d runs", d.GetAfter())
}

// drillOf tells how a drill stands.
func drillOf(d *requorumv1.ScheduleDrill) string {
	text := "drill " + runResult(d.GetResult())
	if d.GetSnapshot() != "" {
		text = "drill of " + d.GetSnapshot() + " " + runResult(d.GetResult())
	}
	if d.GetReason() != "" {
		text += ": " + output.Brief(d.GetReason())
	}
	return text
}

func runTable(runs []*requorumv1.ScheduleRun, named bool) *output.Rows {
	heading := []string{"DUE", "BEGAN", "RESULT", "SNAPSHOT", "OPERATION", "REASON"}
	if named {
		heading = append([]string{"SCHEDULE"}, heading...)
	}
	table := output.NewTable(heading...)
	for _, r := range runs {
		cells := []string{output.Time(r.GetDue()), output.Time(r.GetBegan()), runResult(r.GetResult()), r.GetSnapshot(), r.GetOperationId(), reasonOf(r)}
		if named {
			cells = append([]string{r.GetSchedule()}, cells...)
		}
		table.Row(cells...)
	}
	return table
}

func reasonOf(r *requorumv1.ScheduleRun) string {
	var parts []string
	if r.GetReason() != "" {
		parts = append(parts, output.Brief(r.GetReason()))
	}
	if r.GetMissed() > 0 {
		parts = append(parts, fmt.Sprintf("stands for %d more that came due", r.GetMissed()))
	}
	if r.GetRetry() > 0 {
		parts = append(parts, fmt.Sprintf("retry %d", r.GetRetry()))
	}
	if r.GetAgain() != nil {
		parts = append(parts, "tried again at "+output.Time(r.GetAgain()))
	}
	if r.GetTriggeredBy() != "" {
		parts = append(parts, "triggered by "+r.GetTriggeredBy())
	}
	if r.GetDrill() != nil {
		parts = append(parts, drillOf(r.GetDrill()))
	}
	return strings.Join(parts, "; ")
}

func (p *program) scheduleLs() *cobra.Command {
	req := &requorumv1.ListSchedulesRequest{}
	command := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List schedules",
		Long:    "List the schedules of one cluster, or of all, with the latest run of each.",
		Example: "  requorum schedule ls\n  requorum schedule ls --cluster prod -o json",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListSchedules, req, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("NAME", "CLUSTER", "WHEN", "NEXT", "LAST RUN", "RESULT", "KEEPS")
				for _, s := range resp.GetSchedules() {
					next := output.Until(s.GetStatus().GetNext(), p.now())
					if s.GetPaused() {
						next = "paused"
					}
					last, result := "", ""
					if runs := s.GetStatus().GetRecords(); len(runs) > 0 {
						last, result = output.Ago(runs[0].GetDue(), p.now()), runResult(runs[0].GetResult())
					}
					table.Row(s.GetName(), s.GetCluster(), whenOf(s), next, last, result, keepsOf(s.GetLocalStorage()))
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
	p.clusterFlag(command, &req.Cluster)
	command.Flags().Lookup("cluster").Usage = "list only the schedules of the cluster `NAME`"
	return command
}

func (p *program) scheduleHistory() *cobra.Command {
	req := &requorumv1.ListScheduleRunsRequest{}
	command := &cobra.Command{
		Use:   "history [NAME]",
		Short: "List the runs of schedules, newest first",
		Long: `List the runs of one schedule, or of all, newest first: when each was due and
began, how it ended, and why. The newest 100 of a schedule are kept.`,
		Example:           "  requorum schedule history nightly\n  requorum schedule history --cluster prod --limit 20 -o json",
		Args:              mayTake(),
		ValidArgsFunction: firstArgument(p.completeSchedules),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				if len(args) > 0 {
					req.Name = args[0]
				}
				resp, err := ask(ctx, c.ListScheduleRuns, req, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				_, err = runTable(resp.GetRuns(), true).WriteTo(p.out)
				return err
			})
		},
	}
	p.clusterFlag(command, &req.Cluster)
	command.Flags().Lookup("cluster").Usage = "list only the runs of the cluster `NAME`"
	command.Flags().Int32Var(&req.Limit, "limit", 0, "list at most `N` (default 100)")
	return command
}

// settles makes a command that changes a schedule at once.
func (p *program) settles(use *cobra.Command, done string, work func(context.Context, *client, string, string) (proto.Message, error)) *cobra.Command {
	var requestID string
	use.Args = takes("NAME")
	use.ValidArgsFunction = firstArgument(p.completeSchedules)
	p.requestIDFlag(use, &requestID)
	use.RunE = func(c *cobra.Command, args []string) error {
		return p.with(c.Context(), func(ctx context.Context, c *client) error {
			resp, err := work(ctx, c, p.request(requestID), args[0])
			if err != nil {
				return err
			}
			if p.settings.format != output.Table {
				return output.Message(p.out, p.settings.format, resp)
			}
			_, err = fmt.Fprintf(p.out, "schedule %s is %s\n", args[0], done)
			return err
		})
	}
	return use
}

func (p *program) schedulePause() *cobra.Command {
	return p.settles(&cobra.Command{
		Use:     "pause NAME",
		Short:   "Keep a schedule from taking and removing snapshots",
		Long:    "Keep a schedule from taking and from removing snapshots until it is resumed. A\nrun that has begun goes on.",
		Example: "  requorum schedule pause nightly",
	}, "paused", func(ctx context.Context, c *client, id, name string) (proto.Message, error) {
		return change(ctx, c, c.PauseSchedule, &requorumv1.PauseScheduleRequest{RequestId: id, Name: name})
	})
}

func (p *program) scheduleResume() *cobra.Command {
	return p.settles(&cobra.Command{
		Use:     "resume NAME",
		Short:   "End a schedule's pause",
		Long:    "End a schedule's pause. Times of cron that came due during the pause are not made\nup for; with every, a run begins at once if so much time has passed.",
		Example: "  requorum schedule resume nightly",
	}, "resumed", func(ctx context.Context, c *client, id, name string) (proto.Message, error) {
		return change(ctx, c, c.ResumeSchedule, &requorumv1.ResumeScheduleRequest{RequestId: id, Name: name})
	})
}

func (p *program) scheduleTrigger() *cobra.Command {
	command := &cobra.Command{
		Use:   "trigger NAME",
		Short: "Begin a run of a schedule now",
		Long: `Begin a run of a schedule now, also if it is paused, and follow it to its end.
The snapshot is one of the schedule's and counts for its retention. It is
refused while another operation changes the cluster.`,
		Example:           "  requorum schedule trigger nightly",
		Args:              takes("NAME"),
		ValidArgsFunction: firstArgument(p.completeSchedules),
	}
	j := &job{}
	p.requestIDFlag(command, &j.requestID)
	command.Flags().BoolVar(&j.detach, "detach", false, "do not wait for the end of the operation")
	command.RunE = func(c *cobra.Command, args []string) error {
		return p.with(c.Context(), func(ctx context.Context, c *client) error {
			resp, err := change(ctx, c, c.TriggerSchedule, &requorumv1.TriggerScheduleRequest{RequestId: p.request(j.requestID), Name: args[0]})
			if err != nil {
				return err
			}
			return p.carryOut(ctx, c, resp.GetOperation(), j, func(op *requorumv1.Operation) proto.Message {
				return &requorumv1.TriggerScheduleResponse{Operation: op, Run: resp.GetRun()}
			})
		})
	}
	return command
}

func (p *program) scheduleRm() *cobra.Command {
	var yes bool
	command := p.settles(&cobra.Command{
		Use:     "rm NAME",
		Aliases: []string{"delete"},
		Short:   "Remove a schedule; its snapshots stay",
		Long:    "Remove a schedule and the history of its runs. Its snapshots stay until a person\nremoves them (requorum snapshot rm). Needs the role admin.",
		Example: "  requorum schedule rm nightly --yes",
	}, "removed; its snapshots stay", func(ctx context.Context, c *client, id, name string) (proto.Message, error) {
		if !yes {
			if err := p.confirm(ctx, fmt.Sprintf("Remove schedule %s and the history of its runs?", name)); err != nil {
				return nil, err
			}
		}
		return change(ctx, c, c.DeleteSchedule, &requorumv1.DeleteScheduleRequest{RequestId: id, Name: name})
	})
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return command
}

func (p *program) completeSchedules(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.propose(c, func(ctx context.Context, c *client) ([]string, error) {
		resp, err := c.ListSchedules(ctx, &requorumv1.ListSchedulesRequest{})
		var found []string
		for _, s := range resp.GetSchedules() {
			found = append(found, fmt.Sprintf("%s\t%s %s", s.GetName(), s.GetCluster(), whenOf(s)))
		}
		return found, err
	})
}

// retentionFlags are the flags that say what is kept.
func retentionFlags(command *cobra.Command) *keeping {
	k := &keeping{TTL: new(config.Lifetime)}
	flags := command.Flags()
	flags.Uint32Var(&k.Last, "last", 0, "keep the newest `N`")
	flags.Uint32Var(&k.Hourly, "hourly", 0, "keep the newest of each of the newest `N` hours")
	flags.Uint32Var(&k.Daily, "daily", 0, "keep the newest of each of the newest `N` days")
	flags.Uint32Var(&k.Weekly, "weekly", 0, "keep the newest of each of the newest `N` weeks")
	flags.Uint32Var(&k.Monthly, "monthly", 0, "keep the newest of each of the newest `N` months")
	timeFlag(flags, k.TTL, "ttl", "keep none that is older, as 30d or 12h")
	return k
}

// given returns the retention that the flags say, nil if none is given.
func (k *keeping) given(command *cobra.Command) *requorumv1.Retention {
	some := false
	for _, flag := range []string{"last", "hourly", "daily", "weekly", "monthly", "ttl"} {
		some = some || command.Flags().Changed(flag)
	}
	if !some {
		return nil
	}
	r := k.retention()
	if !command.Flags().Changed("ttl") {
		r.Ttl = nil
	}
	return r
}
