//go:build !race

package operation_test

// modelRuns takes some seconds.
const modelRuns = 40_000
