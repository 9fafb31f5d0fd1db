package operation_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
)

// Only once every node is put back is it asked whether the cluster is as it was; that it is not is a warning, not
// an operation that never ends.
func TestSettlingComesLastAndEndsWithTheOperation(t *testing.T) {
	for name, c := range map[string]struct {
		fails error
		warns []string
	}{
		"it settles":  {nil, nil},
		"it does not": {errors.New("b is silent"), []string{"everything was put back, and b is silent"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, effect("stage"), effect("swap"), check("verify"))
				defer w.stop()
				asked := 0
				w.settle = func(context.Context, *operation.Run) error {
					asked++
					if left := w.fleet.left(); left != "" {
						t.Errorf("asked while there is left %q", left)
					}
					return c.fails
				}
				w.fleet.before = failing(1, "b", doing("swap"))
				op := w.wait(w.begin())
				w.expect(op, requorumv1.OperationState_OPERATION_STATE_REVERTED, "")
				if asked != 1 || !slices.Equal(op.GetWarnings(), c.warns) {
					t.Errorf("asked %d times, warnings %q, want %q", asked, op.GetWarnings(), c.warns)
				}
			})
		})
	}
}

func TestNothingSettlesAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, restoreLike()...)
		defer w.stop()
		w.settle = func(context.Context, *operation.Run) error {
			t.Error("settled, and nothing was put back")
			return nil
		}
		w.wait(w.begin())
	})
}
