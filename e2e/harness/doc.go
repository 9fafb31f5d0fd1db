// Package harness runs whole clusters for end-to-end tests: a controller, agents and real etcd members, each a process of
// its own, with short timings and a directory of fault points. It writes data, drives the command line as a person would,
// and asks two questions of the result: does every member serve the right data, and was anything left behind.
package harness
