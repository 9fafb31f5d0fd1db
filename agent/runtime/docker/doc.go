// Package docker runs etcd as a container of a Docker engine, the way RKE1 does, over the Engine API.
//
// A container that was stopped must stay stopped. What would bring it back is its restart policy, at the latest when
// the engine or the host starts again. So the policy is set to "no" while the container is to stay stopped, and put back
// before it is started. The policy that it had is written to a file before, so that it is never lost.
//
// The member's configuration is what the engine knows of the container: its command line, its environment, its user and
// its mounts, by which paths in the container are turned into paths of the host.
package docker
