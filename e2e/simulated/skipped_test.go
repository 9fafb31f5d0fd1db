//go:build !faultinject

package simulated_test

import "testing"

func TestMatrix(t *testing.T) {
	t.Skip("fault points exist only with -tags faultinject; make unit runs this package with it")
}
