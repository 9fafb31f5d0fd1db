package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/timetable"
)

// policy is a schedule as a YAML document. Where other backup policies have a name for a field, it is that one.
type policy struct {
	Name          string            `yaml:"name"`
	Cluster       string            `yaml:"cluster"`
	Cron          string            `yaml:"cron,omitempty"`
	Schedule      string            `yaml:"schedule,omitempty"` // the name that other policies have for cron
	Timezone      string            `yaml:"timezone,omitempty"`
	Every         *config.Lifetime  `yaml:"every,omitempty"`
	Paused        bool              `yaml:"paused"`
	Prefix        string            `yaml:"prefix,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Copies        copyCount         `yaml:"copies,omitempty"`
	Stagger       *config.Lifetime  `yaml:"stagger,omitempty"`
	AllowDegraded bool              `yaml:"allowDegraded,omitempty"`
	Files         []string          `yaml:"files,omitempty,flow"`
	Drill         *drilling         `yaml:"drill,omitempty"`
	Retry         *retrying         `yaml:"retry,omitempty"`
	LocalStorage  *keepingLocal     `yaml:"localStorage,omitempty"`
	RemoteStorage *storing          `yaml:"remoteStorage,omitempty"`
	Status        *policyStatus     `yaml:"status,omitempty"`
}

// drilling says after which runs the newest snapshot is proved restorable.
type drilling struct {
	After uint32           `yaml:"after,omitempty"`
	Every *config.Lifetime `yaml:"every,omitempty"`
}

// retrying says how a run that failed is tried again.
type retrying struct {
	Limit *uint32          `yaml:"limit,omitempty"`
	After *config.Lifetime `yaml:"after,omitempty"`
}

// storing says in which remote snapshots are stored, and its retention there.
type storing struct {
	Remote  string `yaml:"remote"`
	keeping `yaml:",inline"`
}

// keepingLocal is the retention of the copies on the nodes, and how they are sealed.
type keepingLocal struct {
	keeping    `yaml:",inline"`
	ZstdLevel  int32    `yaml:"zstdLevel,omitempty"`
	Recipients []string `yaml:"recipients,omitempty"`
}

// keeping is a retention.
type keeping struct {
	TTL     *config.Lifetime `yaml:"ttl,omitempty"`
	Last    uint32           `yaml:"last,omitempty"`
	Hourly  uint32           `yaml:"hourly,omitempty"`
	Daily   uint32           `yaml:"daily,omitempty"`
	Weekly  uint32           `yaml:"weekly,omitempty"`
	Monthly uint32           `yaml:"monthly,omitempty"`
}

// policyStatus is what the controller knows. It is written, and read to be ignored.
type policyStatus struct {
	Applied   string         `yaml:"applied,omitempty"`
	AppliedBy string         `yaml:"appliedBy,omitempty"`
	Next      string         `yaml:"next,omitempty"`
	Drill     *policyDrill   `yaml:"drill,omitempty"`
	Records   []policyRecord `yaml:"records,omitempty"`
}

type policyDrill struct {
	Due       string `yaml:"due"`
	FileName  string `yaml:"fileName,omitempty"`
	Result    string `yaml:"result"`
	Reason    string `yaml:"reason,omitempty"`
	Operation string `yaml:"operation,omitempty"`
}

type policyRecord struct {
	BackupTimestamp string `yaml:"backupTimestamp"`
	Due             string `yaml:"due,omitempty"`
	FileName        string `yaml:"fileName,omitempty"`
	Result          string `yaml:"result"`
	Reason          string `yaml:"reason,omitempty"`
	Operation       string `yaml:"operation,omitempty"`
	TriggeredBy     string `yaml:"triggeredBy,omitempty"`
	Missed          uint32 `yaml:"missed,omitempty"`
	Retry           uint32 `yaml:"retry,omitempty"`
	Again           string `yaml:"again,omitempty"`

	Drill *policyDrill `yaml:"drill,omitempty"`
}

// copyCount is on how many nodes a snapshot is kept: 0 for all.
type copyCount uint32

// Set parses all, one or a number; it makes *copyCount usable as a flag.
func (c *copyCount) Set(s string) error {
	switch s {
	case "all":
		*c = 0
		return nil
	case "one":
		*c = 1
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is no number of copies; write all, one or a number of nodes", s)
	}
	*c = copyCount(n)
	return nil
}

// String writes it as it is read.
func (c *copyCount) String() string {
	switch *c {
	case 0:
		return "all"
	case 1:
		return "one"
	}
	return strconv.Itoa(int(*c))
}

// Type names the kind of value in a flag's help.
func (c *copyCount) Type() string { return "all|one|N" }

// UnmarshalYAML reads all, one or a number.
func (c *copyCount) UnmarshalYAML(n *yaml.Node) error { return config.Set(n, c.Set) }

// MarshalYAML writes it as it is read.
func (c copyCount) MarshalYAML() (any, error) {
	if c > 1 {
		return uint32(c), nil
	}
	return c.String(), nil
}

// readPolicies reads the schedules of a file; "-" is in. What is wrong in any of them refuses all.
func readPolicies(file string, in io.Reader) ([]*requorumv1.Schedule, error) {
	name, data, err := readFile(file, in)
	if err != nil {
		return nil, err
	}
	docs, err := config.Documents[policy](name, data)
	problems := []error{err}
	var all []*requorumv1.Schedule
	places := make(map[string]string) // of the schedules, by name
	for _, doc := range docs {
		s, err := doc.Value.schedule(doc)
		if first, twice := places[s.GetName()]; err == nil && twice {
			err = doc.Wrong("name", "schedule %s stands at %s already; give one of them another name", s.GetName(), first)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		places[s.GetName()] = doc.Where()
		all = append(all, s)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, advised(&UsageError{Err: err}, quoted(data)...)
	}
	if len(all) == 0 {
		return nil, usagef("%s holds no schedule", name)
	}
	return all, nil
}

// starred is a cron that YAML takes for an alias.
var starred = regexp.MustCompile(`(?m)^\s*(cron|schedule):\s*\*`)

// quoted advises to quote a cron that begins with a star.
func quoted(data []byte) []string {
	if !starred.Match(data) {
		return nil
	}
	return []string{`what begins with * stands in quotes, as cron: "*/15 * * * *"`}
}

func readFile(file string, in io.Reader) (name string, data []byte, err error) {
	if file == "-" {
		data, err = io.ReadAll(in)
		return "stdin", data, err
	}
	data, err = os.ReadFile(file)
	if err != nil {
		return file, nil, &UsageError{Err: err}
	}
	return file, data, nil
}

// schedule is the API's message for the document, or what is wrong with it and in which line.
func (p *policy) schedule(doc config.Document[policy]) (*requorumv1.Schedule, error) {
	if p.Cron != "" && p.Schedule != "" {
		return nil, doc.Wrong("schedule", "it is another name for cron, which is given too: remove one of them")
	}
	s := &requorumv1.Schedule{
		Name: p.Name, Cluster: p.Cluster, Cron: p.Cron + p.Schedule, Timezone: p.Timezone, Every: lasting(p.Every), Paused: p.Paused, Prefix: p.Prefix,
		Labels: p.Labels, Copies: uint32(p.Copies), Stagger: lasting(p.Stagger), AllowDegraded: p.AllowDegraded, Files: p.Files, LocalStorage: p.LocalStorage.retention(), LocalSealing: p.LocalStorage.sealing(),
	}
	if r := p.RemoteStorage; r != nil {
		s.RemoteStorage = &requorumv1.RemoteStorage{Remote: r.Remote}
		if r.keeping != (keeping{}) {
			s.RemoteStorage.Retention = r.retention()
		}
	}
	if d := p.Drill; d != nil {
		s.Drill = &requorumv1.Drill{After: d.After, Every: lasting(d.Every)}
	}
	if r := p.Retry; r != nil {
		s.Retry = &requorumv1.Retry{Limit: r.Limit, After: lasting(r.After)}
	}
	var wrong *timetable.FieldError
	if err := timetable.Check(s); errors.As(err, &wrong) {
		field := wrong.Field
		if field == "cron" && p.Schedule != "" {
			field = "schedule"
		}
		return nil, doc.Wrong(field, "%s", wrong.Message)
	}
	return s, nil
}

func lasting(l *config.Lifetime) *durationpb.Duration {
	if l == nil {
		return nil
	}
	return durationpb.New(l.Std())
}

func lifetime(d *durationpb.Duration) *config.Lifetime {
	if d == nil {
		return nil
	}
	l := config.Lifetime(d.AsDuration())
	return &l
}

func (k *keeping) retention() *requorumv1.Retention {
	if k == nil {
		return nil
	}
	return &requorumv1.Retention{Ttl: lasting(k.TTL), Last: k.Last, Hourly: k.Hourly, Daily: k.Daily, Weekly: k.Weekly, Monthly: k.Monthly}
}

// retention is unset where only how the copies are sealed is given.
func (k *keepingLocal) retention() *requorumv1.Retention {
	if k == nil || k.keeping == (keeping{}) && k.sealing() != nil {
		return nil
	}
	return k.keeping.retention()
}

func (k *keepingLocal) sealing() *requorumv1.Sealing {
	if k == nil || k.ZstdLevel == 0 && len(k.Recipients) == 0 {
		return nil
	}
	return &requorumv1.Sealing{ZstdLevel: k.ZstdLevel, Recipients: k.Recipients}
}

// document is the YAML document of a schedule: what it gives back can be applied.
func document(s *requorumv1.Schedule) *policy {
	p := &policy{
		Name: s.GetName(), Cluster: s.GetCluster(), Cron: s.GetCron(), Timezone: s.GetTimezone(), Every: lifetime(s.GetEvery()), Paused: s.GetPaused(),
		Prefix: s.GetPrefix(), Labels: s.GetLabels(), Copies: copyCount(s.GetCopies()), Stagger: lifetime(s.GetStagger()), AllowDegraded: s.GetAllowDegraded(), Files: s.GetFiles(),
	}
	if r, sealed := s.GetLocalStorage(), s.GetLocalSealing(); r != nil || sealed != nil {
		p.LocalStorage = &keepingLocal{keeping: *kept(r), ZstdLevel: sealed.GetZstdLevel(), Recipients: sealed.GetRecipients()}
	}
	if r := s.GetRemoteStorage(); r != nil {
		p.RemoteStorage = &storing{Remote: r.GetRemote(), keeping: *kept(r.GetRetention())}
	}
	if d := s.GetDrill(); d != nil {
		p.Drill = &drilling{After: d.GetAfter(), Every: lifetime(d.GetEvery())}
	}
	if r := s.GetRetry(); r != nil {
		p.Retry = &retrying{Limit: r.Limit, After: lifetime(r.GetAfter())}
	}
	status := s.GetStatus()
	p.Status = &policyStatus{Applied: rfc3339(status.GetApplied()), AppliedBy: status.GetAppliedBy(), Next: rfc3339(status.GetNext()), Drill: drillRecord(status.GetDrill())}
	for _, r := range status.GetRecords() {
		p.Status.Records = append(p.Status.Records, record(r))
	}
	return p
}

func kept(r *requorumv1.Retention) *keeping {
	return &keeping{TTL: lifetime(r.GetTtl()), Last: r.GetLast(), Hourly: r.GetHourly(), Daily: r.GetDaily(), Weekly: r.GetWeekly(), Monthly: r.GetMonthly()}
}

func record(r *requorumv1.ScheduleRun) policyRecord {
	rec := policyRecord{
		Due: rfc3339(r.GetDue()), BackupTimestamp: rfc3339(r.GetBegan()), Result: runResult(r.GetResult()), Reason: r.GetReason(),
		Operation: r.GetOperationId(), TriggeredBy: r.GetTriggeredBy(), Missed: r.GetMissed(), Drill: drillRecord(r.GetDrill()),
		Retry: r.GetRetry(), Again: rfc3339(r.GetAgain()),
	}
	if rec.BackupTimestamp == "" {
		rec.BackupTimestamp = rec.Due
	}
	if r.GetSnapshot() != "" {
		rec.FileName = r.GetSnapshot() + ".db"
	}
	return rec
}

func drillRecord(d *requorumv1.ScheduleDrill) *policyDrill {
	if d == nil {
		return nil
	}
	rec := &policyDrill{Due: rfc3339(d.GetDue()), Result: runResult(d.GetResult()), Reason: d.GetReason(), Operation: d.GetOperationId()}
	if d.GetSnapshot() != "" {
		rec.FileName = d.GetSnapshot() + ".db"
	}
	return rec
}

func rfc3339(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

func runResult(r requorumv1.RunResult) string { return word(r.String(), "RUN_RESULT_") }
