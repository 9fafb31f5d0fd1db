// Package e2e tests requorum as its users run it: real processes, real etcd, real faults. Stories are in testdata, one
// file each; what a story cannot say is in the tests.
package e2e
