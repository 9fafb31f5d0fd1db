package restore

import (
	"strings"
	"testing"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

func TestTheFurthestLogIsTheOneThatWouldLead(t *testing.T) {
	data := func(cluster string, term, last, applied uint64) *agentv1.OldData {
		return &agentv1.OldData{Readable: true, ClusterId: cluster, LastTerm: term, LastIndex: last, AppliedIndex: applied}
	}
	unreadable := &agentv1.OldData{Problem: "it is gone"}
	for name, tc := range map[string]struct {
		found map[string]*agentv1.OldData
		want  string
	}{
		"the longer log":                        {map[string]*agentv1.OldData{"a": data("c", 2, 10, 10), "b": data("c", 2, 12, 8)}, "b"},
		"a later term before a longer log":      {map[string]*agentv1.OldData{"a": data("c", 2, 90, 80), "b": data("c", 3, 12, 8)}, "b"},
		"of equal ones the complete database":   {map[string]*agentv1.OldData{"a": data("c", 2, 12, 7), "b": data("c", 2, 12, 12)}, "b"},
		"what can be read":                      {map[string]*agentv1.OldData{"a": unreadable, "b": data("c", 1, 1, 1)}, "b"},
		"the cluster of most, whatever it says": {map[string]*agentv1.OldData{"a": data("other", 9, 99, 99), "b": data("c", 2, 5, 5), "d": data("c", 2, 6, 6)}, "d"},
		"nothing":                               {map[string]*agentv1.OldData{"a": unreadable}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			node, _, err := furthestOf(tc.found)
			if node != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("chose %q, %v; want %q", node, err, tc.want)
			}
			if err != nil && !strings.Contains(err.Error(), "a: it is gone") {
				t.Errorf("the error does not say why: %v", err)
			}
		})
	}
}
