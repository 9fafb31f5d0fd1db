// Command matrix makes everything go wrong once, everywhere: each step of the restore plan and of the snapshot plan, and
// each of their undos, meets each kind of fault, with real processes and a real etcd. What the steps are, and where in
// them a fault can happen, is asked of the binary and seen in runs without faults, so that a new step takes part without
// anybody thinking of it.
//
// After each run everything is started and connected again, nobody types anything, and an oracle looks at the cluster,
// at the disks and at what the controller says. The result is a table in dist/fault-matrix.md and dist/fault-matrix.json.
//
// Everything runs in network and mount namespaces of its own, which needs root; without it the faults that cut a network
// or fill a disk are left out, and the table says so.
package main
