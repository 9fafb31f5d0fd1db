// Package agents measures what many agents cost one controller: its memory, what it does while nothing happens,
// and how long they take to come back to it after it was killed.
//
// The controller is a process of the released binary. The agents are simulated in this process: each is enrolled
// with a join token, has a certificate, a connection, a session, a stream for reports and heartbeats of its own,
// as the real one has, and the same way of coming back. What they tell is made up; no etcd runs.
package agents
