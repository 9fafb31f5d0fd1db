//go:build race

package operation_test

// modelRuns takes some seconds, of which the race detector takes most.
const modelRuns = 10_000
