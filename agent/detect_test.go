package agent

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/runtime/detect"
)

// fakeDetector finds units of these names.
type fakeDetector []string

func (fakeDetector) Kind() string { return "systemd" }

func (f fakeDetector) Detect(context.Context) (detect.Found, error) {
	var found detect.Found
	for _, unit := range f {
		found.Candidates = append(found.Candidates, detect.Candidate{Place: unit, Config: map[string]any{"unit": unit}})
	}
	return found, nil
}

func TestTheRuntimeThatIsFoundIsTaken(t *testing.T) {
	exec := Runtime{Exec: &Exec{}}
	for name, test := range map[string]struct {
		has, want Runtime
		found     fakeDetector
		err       error
	}{
		"the only one":           {found: fakeDetector{"etcd3.service"}, want: Runtime{Systemd: &Systemd{Unit: "etcd3.service"}}},
		"none":                   {err: detect.ErrNone},
		"two":                    {found: fakeDetector{"a.service", "b.service"}, err: detect.ErrAmbiguous},
		"what is configured":     {has: exec, want: exec, found: fakeDetector{"a.service", "b.service"}},
		"what is configured yet": {has: exec, want: exec},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Runtime: test.has}
			if err := cfg.detectRuntime(t.Context(), []detect.Detector{test.found}, hclog.NewNullLogger()); !errors.Is(err, test.err) {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, cfg.Runtime); diff != "" {
				t.Error(diff)
			}
		})
	}
}
