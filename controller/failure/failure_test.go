package failure_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/requorum/requorum/controller/failure"
)

func TestFailureKeepsWhatAPersonNeeds(t *testing.T) {
	full := failure.On("etcd-1", "disk full", "free space")
	for name, c := range map[string]struct {
		err                   error
		node, message, advice string
	}{
		"a failure":      {full, "etcd-1", "disk full", "free space"},
		"a wrapped one":  {fmt.Errorf("stage: %w", full), "etcd-1", "stage: etcd-1: disk full; free space", "free space"},
		"several":        {errors.Join(errors.New("no network"), full), "etcd-1", "no network\netcd-1: disk full; free space", "free space"},
		"any other":      {errors.New("no network"), "", "no network", ""},
		"without a node": {&failure.Error{Message: "no leader"}, "", "no leader", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := failure.Of("stage", c.err)
			if f.GetStep() != "stage" || f.GetNode() != c.node || f.GetMessage() != c.message || f.GetAdvice() != c.advice {
				t.Errorf("got %v", f)
			}
		})
	}
}

func TestFailureOfTheConfigurationIsTold(t *testing.T) {
	err := fmt.Errorf("check: %w", &failure.Error{Node: "etcd-1", Message: "no such set", Configuration: true})
	if !failure.Of("check", err).GetConfiguration() || failure.Of("check", failure.On("etcd-1", "disk full", "")).GetConfiguration() {
		t.Error("it cannot be told from another failure")
	}
}

func TestCauseCanBeFound(t *testing.T) {
	cause := errors.New("removed")
	if err := error(&failure.Error{Node: "a", Message: "gone", Cause: cause}); !errors.Is(err, cause) {
		t.Error("the cause is lost")
	}
}
