// Package staticpod runs etcd as a static pod of the kubelet, as kubeadm sets it up.
//
// The kubelet runs whatever has a manifest in its directory, so etcd is stopped by moving its manifest out and started by
// moving it back. The manifest is renamed and never written, so it comes back byte for byte with its mode, owner and
// time, and at every moment it is in exactly one place. Where it is says what is wanted, over a restart of the agent and a
// reboot: there is no record besides it that could disagree.
//
// Whether a pod has ended is asked of the container runtime (CRI), not of the API server, which is stopped itself.
package staticpod
