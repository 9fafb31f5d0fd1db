// Package rke2 runs the etcd of an RKE2 server, which is a static pod of the kubelet that RKE2 itself starts.
//
// A server is a unit of systemd, whose main process starts containerd and the kubelet. When the unit is stopped these two go,
// and every container stays, etcd's too. So a stop has two parts: the unit, which package systemd keeps stopped, and then the
// pods of etcd and of the control plane. For these containerd is run once more for a moment, as RKE2 does it itself before a
// --cluster-reset. Manifests are left where they are: without a kubelet nobody reads them.
package rke2
