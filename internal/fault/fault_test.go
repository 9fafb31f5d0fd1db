package fault_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/requorum/requorum/internal/fault"
)

func TestFileName(t *testing.T) {
	for _, tc := range []struct{ point, node, want string }{
		{"stage", "", "stage"},
		{"agent/stage/before", "", "agent__stage__before"},
		{"agent/stage/before", "etcd-1", "agent__stage__before@etcd-1"},
	} {
		if got := fault.FileName(tc.point, tc.node); got != tc.want {
			t.Errorf("FileName(%q, %q) = %q, want %q", tc.point, tc.node, got, tc.want)
		}
	}
}

func TestReadFirings(t *testing.T) {
	const (
		first  = `{"point":"a/b","node":"etcd-1","action":"kill","pid":7,"time":"2026-01-02T03:04:05Z"}` + "\n"
		second = `{"point":"a/b","action":"hang","pid":8,"time":"2026-01-02T03:04:06Z"}` + "\n"
	)
	for _, tc := range []struct {
		name, content string
		pids          []int
		wantErr       bool
	}{
		{"nothing yet", "", nil, false},
		{"in order", first + second, []int{7, 8}, false},
		{"the last line is still being written", first + second[:20], []int{7}, false},
		{"not a trace", "kill once\n", nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a__b"+fault.FiredSuffix)
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			firings, err := fault.ReadFirings(path)
			if (err != nil) != tc.wantErr {
				t.Fatalf("error %v, want one: %v", err, tc.wantErr)
			}
			var pids []int
			for _, f := range firings {
				pids = append(pids, f.PID)
			}
			if diff := cmp.Diff(tc.pids, pids); diff != "" {
				t.Errorf("pids (-want +got):\n%s", diff)
			}
		})
	}
}
