package output_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func TestSizesKeepTwoDigits(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 10: "10 KiB", 1<<20 - 1: "1.0 MiB",
		1288490189: "1.2 GiB", 31 << 30: "31 GiB", 1536 << 30: "1.5 TiB", 1023 << 20: "1023 MiB",
	} {
		if got := output.Bytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	if got := output.Of(512<<20, 1288490189); got != "0.5 of 1.2 GiB" {
		t.Error(got)
	}
}

func TestRevisionsAreGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1_000", 4812004: "4_812_004", -1234: "-1_234"} {
		if got := output.Grouped(n); got != strings.ReplaceAll(want, "_", "\u202f") {
			t.Errorf("%d: got %q", n, got)
		}
	}
}

func TestBriefLeavesWhatCanBeReadAtAGlance(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"etcd has ended":          "etcd has ended",
		"etcd has ended\n":        "etcd has ended",
		"its last lines:\n{}\n{}": "its last lines: …",
		strings.Repeat("ä", 300):  strings.Repeat("ä", 300),
		strings.Repeat("ä", 301):  strings.Repeat("ä", 300) + " …",
	} {
		if got := output.Brief(text); got != want {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestTimesReadAsPeopleSayThem(t *testing.T) {
	for passed, want := range map[time.Duration]string{
		0: "just now", 5 * time.Second: "5s ago", 41 * time.Minute: "41m ago", 36 * time.Hour: "36h ago", 72 * time.Hour: "3d ago", -time.Hour: "just now",
	} {
		if got := output.Ago(timestamppb.New(now.Add(-passed)), now); got != want {
			t.Errorf("%s: got %s, want %s", passed, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		850 * time.Millisecond: "850ms", 2750 * time.Millisecond: "2.8s", 41 * time.Second: "41s", 187 * time.Second: "3m07s", 125 * time.Minute: "2h05m", 998 * time.Millisecond: "1.0s",
	} {
		if got := output.Took(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Second: "0s", 6900 * time.Millisecond: "6s", 187 * time.Second: "3m07s"} {
		if got := output.Clock(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{72 * time.Hour: "72 h", 90 * time.Minute: "90 min", 45 * time.Second: "45 s"} {
		if got := output.Hours(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	for left, want := range map[time.Duration]string{time.Hour - 300*time.Millisecond: "in 1h", 71 * time.Minute: "in 1h", 72 * time.Hour: "in 3d", -time.Second: "now"} {
		if got := output.Until(timestamppb.New(now.Add(left)), now); got != want {
			t.Errorf("%s: got %s, want %s", left, got, want)
		}
	}
	if output.Ago(nil, now) != "" || output.Time(nil) != "" || output.Until(nil, now) != "" {
		t.Error("an unset time is not empty")
	}
}

func TestCleanDisarmsTerminalSequences(t *testing.T) {
	if got := output.Clean("a\x1b[2Jb\nc\u009bd\x00"); got != "a[2Jb cd" {
		t.Errorf("%q", got)
	}
}

func TestTableAlignsByCharactersNotBytes(t *testing.T) {
	table := output.NewTable("NAME", "REVISION", "STATE")
	table.Row("ätcd-1", output.Grouped(4812004), "ready")
	table.Row("e", "", "failed\x1b[31m")
	var b bytes.Buffer
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	want := "NAME    REVISION   STATE\nätcd-1  4_812_004  ready\ne       -          failed[31m\n"
	if got := strings.ReplaceAll(b.String(), "\u202f", "_"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMessagesAreWrittenWithProtoNames(t *testing.T) {
	op := &requorumv1.Operation{
		Id: "01J", State: requorumv1.OperationState_OPERATION_STATE_SUCCEEDED, Snapshot: "1.31",
		Unavailability: durationpb.New(2750 * time.Millisecond), Warnings: []string{"yes", "a: b"}, PastPivot: true,
	}
	const asJSON = `{
  "id": "01J",
  "snapshot": "1.31",
  "state": "OPERATION_STATE_SUCCEEDED",
  "warnings": [
    "yes",
    "a: b"
  ],
  "unavailability": "2.750s",
  "past_pivot": true,
  "steps": [],
  "nodes": [],
  "quarantines": []
}
`
	const asYAML = `id: 01J
snapshot: "1.31"
state: OPERATION_STATE_SUCCEEDED
warnings:
  - "yes"
  - 'a: b'
unavailability: 2.750s
past_pivot: true
`
	const emptyLists = "steps: []\nnodes: []\nquarantines: []\n"
	const asLine = `{"id":"01J","snapshot":"1.31","state":"OPERATION_STATE_SUCCEEDED","warnings":["yes","a: b"],"unavailability":"2.750s","past_pivot":true}` + "\n"
	for name, c := range map[string]struct {
		write func(*bytes.Buffer) error
		want  string
	}{
		"json":        {func(b *bytes.Buffer) error { return output.Message(b, output.JSON, op) }, asJSON},
		"yaml":        {func(b *bytes.Buffer) error { return output.Message(b, output.YAML, op) }, asYAML + emptyLists},
		"json stream": {func(b *bytes.Buffer) error { return output.StreamMessage(b, output.JSON, op) }, asLine},
		"yaml stream": {func(b *bytes.Buffer) error { return output.StreamMessage(b, output.YAML, op) }, "---\n" + asYAML},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := c.write(&b); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("got\n%s\nwant\n%s", b.String(), c.want)
			}
		})
	}
}
