// Package k3s runs the etcd that is part of a k3s server, which is a unit of systemd.
//
// The unit is stopped, kept stopped and started as package systemd does it. Two things differ. k3s writes etcd's
// configuration itself, at every start, into the member's data directory; that is where it is read. And etcd lives in
// k3s' own process beside the control plane, so there is no control plane to stop besides, and what k3s leaves running
// when it ends (KillMode=process), the shims of the node's containers, is left alone.
package k3s
