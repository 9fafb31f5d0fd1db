// Package simulated runs the complete product, controller and agents, over nodes that it simulates: their disks,
// etcd processes, network and clock are a test's, which makes them fail at every fault point in every way and
// then looks whether what is left is right. It holds tests only; they need the build tag faultinject.
package simulated
